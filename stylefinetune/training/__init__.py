"""The parts of a training run around its loop."""
