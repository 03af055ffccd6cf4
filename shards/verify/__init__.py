"""Checks a shard directory against its index and outcomes."""
