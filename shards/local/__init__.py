"""Pictures on the local disk: folders of classes, and files that a list names."""
