"""The data side: a list of image URLs and labels becomes WebDataset tar shards with Parquet records."""
