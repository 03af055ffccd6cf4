"""A local page and a JSON API that classify pictures, and show the test set with the predictions."""
