"""Makes pictures of any size fit into the input of a network, and augments training pictures."""
