"""The data side: turns a list of image URLs and labels into WebDataset tar shards with Parquet records."""
