"""Communication between processes: the only code that calls torch.distributed."""
