"""Reads a list of URLs or local files, and selects, splits and orders its rows."""
