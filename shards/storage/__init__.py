"""A shard directory on disk or under a URL: locks, journal, transfers."""
