"""How a run goes on: loop, hooks, checkpoints, optimizers, work directory, command line."""
