"""Engines move the weights: one protocol, whatever trains underneath."""
