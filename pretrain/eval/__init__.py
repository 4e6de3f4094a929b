"""Evaluation of frozen encoders: linear classifiers, nearest neighbours, fine-tuning, analyses."""
