"""What knows that training runs in several processes: the only code that calls torch.distributed."""
