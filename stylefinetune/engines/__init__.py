"""Engines train the network: one protocol, implemented with PyTorch and with DeepSpeed."""
