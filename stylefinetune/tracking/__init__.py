"""Logs, metrics and Weights & Biases."""
