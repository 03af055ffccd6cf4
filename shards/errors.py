"""Errors that the user can fix; each message is one line."""


class ShardsError(ValueError):
    """Something about the list, DIR or its shards that the user must mend; the message is one line."""


class ConfigError(ValueError):
    """A flag or key that the user must mend; the message is one line."""
