"""Checks a machine before a run: programs, GPUs, limits, disks, services and data."""
