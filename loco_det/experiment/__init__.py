"""Detection experiments: one config, one run per split."""
