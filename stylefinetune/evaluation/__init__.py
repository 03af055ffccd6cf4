"""What a network predicts on a test set, and how good that is."""
