"""Runs a trained network over pictures from files, folders, lists, URLs and shards, and writes what it computes."""
