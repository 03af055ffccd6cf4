"""Fine-tunes and evaluates networks on tar shards of pictures."""
