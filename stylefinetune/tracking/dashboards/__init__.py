"""Dashboards that show the metrics of a run elsewhere: Weights & Biases and TensorBoard."""
