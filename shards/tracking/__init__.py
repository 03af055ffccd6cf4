"""Logs a crawl to Weights & Biases."""
