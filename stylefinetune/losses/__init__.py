"""The loss of a batch: cross-entropy or binary cross-entropy, class weights, smoothed and mixed labels."""
