"""Pictures on the local disk: folders of classes, files that a list names, and datasets in Parquet files."""
