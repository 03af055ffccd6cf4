"""Tests a trained network on a split of shards."""
