"""Reports what became of a list."""
