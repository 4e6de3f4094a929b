"""Data sets for detection: reproducible COCO subsets, Cityscapes, the synthetic default."""
