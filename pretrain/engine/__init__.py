"""The training engine: loop, hooks, checkpoints, optimizers, work directory, command line."""
