"""Packs a list's pictures into shards, block by block."""
