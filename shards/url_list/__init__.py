"""Reads a list of URLs or local files, and selects and orders its rows."""
