"""MixUp and CutMix: training pictures and labels that are mixed from two pictures of a batch."""
