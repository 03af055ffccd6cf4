"""Nets of Caffe layers in any arrangement: their checks, and the one prototxt that a checkpoint stores."""
