"""Errors that the user can fix; each message is one line."""


class ShardsError(ValueError):
    """A problem with the list, DIR or its shards."""


class RowError(ShardsError):
    """A problem with a row of a list. The reader of the list names the line of its file instead of the row.

    Attributes:
        row: the number of the row, from 0.
        problem: the rest of the sentence that begins with the row.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(f"row {row} {problem}")
        self.row = row
        self.problem = problem


class ConfigError(ValueError):
    """A problem with a flag or a key."""
