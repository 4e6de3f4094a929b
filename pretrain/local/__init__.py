"""Local units and the executor of their training step."""
