"""Image sources, the two-view augmentation, and the embedded synthetic data set."""
