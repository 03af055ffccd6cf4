"""Checkpoints: their format, saving and resuming."""
