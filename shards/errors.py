"""Errors that the user can fix; each message is one line."""


class ShardsError(ValueError):
    """A problem with the list, DIR or its shards."""


class ConfigError(ValueError):
    """A problem with a flag or a key."""
