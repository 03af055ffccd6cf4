"""Builds the network that a Caffe prototxt describes: a module for each layer, connected by names."""
