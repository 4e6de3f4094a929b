"""Figures of detection: each function takes run directories and returns a matplotlib figure."""
