"""Predictions against truth: pairing, metrics, scores with intervals, confusions."""
