"""Simple classifiers of a network's features, to compare the network with."""
