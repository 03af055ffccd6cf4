"""Writes a commented config for the user's pictures and network."""
