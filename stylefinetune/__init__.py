"""The training side: tar shards become batches, batches move the weights of a network."""
