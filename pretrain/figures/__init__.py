"""Figures of pretraining: each function takes plain data and returns a matplotlib figure."""
