"""Copies the shards of a run to the local disk of each node, from a network file system or an object store."""
