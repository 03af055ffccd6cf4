"""The plan of a run: what the config leaves open, its description and warnings."""
