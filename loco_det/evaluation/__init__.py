"""Evaluation of detectors: what a run measured, and averages over splits."""
