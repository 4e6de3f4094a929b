"""Readout of frozen encoders: linear classifiers, nearest neighbours, and tables of their accuracies."""
