"""Evaluation of encoders: linear classifiers, nearest neighbours, fine-tuning, analyses."""
