"""Errors that the user can fix; each message is one line, of which some parts are made here."""

from collections.abc import Sequence

_MAX_MESSAGE = 200  # characters of another library's message
_MOST_NAMES = 5


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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without a full stop; the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def joined_lines(error: BaseException) -> str:
    """Return an error's message with all its lines as one, without a full stop; the name of its type if it has none."""
    return " ".join(str(error).split()).rstrip(".!")[:_MAX_MESSAGE] or type(error).__name__


def shorten(names: Sequence[str]) -> str:
    """Return the first five names of a list, and how many more there are."""
    more = [f"and {len(names) - _MOST_NAMES:,} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*names[:_MOST_NAMES], *more])
