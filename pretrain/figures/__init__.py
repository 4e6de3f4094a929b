"""Figures of pretraining: each function takes paths and returns a drawing, a matplotlib figure with its caption."""
