"""Reads and writes Caffe's files."""
