"""Writes a trained network in the formats of other programs, and checks each file by loading it again."""
