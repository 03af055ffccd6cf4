"""Norms of the gradients and of the updates, by layer."""
