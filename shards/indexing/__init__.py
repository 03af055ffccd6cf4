"""Makes a shard directory from existing WebDataset tars, which stay where they are."""
