"""Data sets for detection: reading and checks, Cityscapes, reproducible splits, sampling."""
