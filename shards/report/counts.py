"""The numbers of rows with each status."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from shards.format.columns import Names
from shards.format.outcomes import STATUS_GROUPS, Status, group_of

Key = TypeVar("Key", int, str)


@dataclasses.dataclass(frozen=True)
class StatusCounts:
    """How many of some rows have which status."""

    name: str  # what the rows have in common, such as a host
    statuses: Counter[str]  # number of rows by status

    @property
    def total(self) -> int:
        """The number of rows."""
        return self.statuses.total()

    @property
    def kept(self) -> int:
        """The number of rows with a picture in the shards."""
        return self.statuses[Status.KEPT]

    def by_group(self) -> dict[str, int]:
        """Return the number of rows of every status group, in order."""
        counts = dict.fromkeys((group.key for group in STATUS_GROUPS), 0)
        for status, count in self.statuses.items():
            counts[group_of(status).key] += count
        return counts


class StatusCounter(Generic[Key]):
    """Counts the statuses of the rows of each key, such as a host, a block of rows at a time."""

    def __init__(self, status: Names) -> None:
        self._status = status  # of all rows
        self._counts: Counter[tuple[Key, int]] = Counter()

    def add(self, block: slice, keys: Iterable[Key]) -> None:
        """Count a block of rows, each with its key."""
        self._counts.update(zip(keys, self._status.codes[block].tolist(), strict=True))

    def to_list(self, name: Callable[[Key], str]) -> list[StatusCounts]:
        """Return the counts of each key, sorted by key."""
        counts: dict[Key, Counter[str]] = defaultdict(Counter)
        for (key, code), count in self._counts.items():
            counts[key][self._status.distinct[code]] = count
        return [StatusCounts(name(key), counts[key]) for key in sorted(counts)]


def limit_counts(counts: list[StatusCounts], limit: int) -> list[StatusCounts]:
    """Return the largest counts first, and all beyond `limit` added up as "N others"."""
    ordered = sorted(counts, key=lambda each: (-each.total, each.name))
    if len(ordered) <= limit:
        return ordered
    rest = sum((each.statuses for each in ordered[limit:]), Counter[str]())
    return [*ordered[:limit], StatusCounts(f"{len(ordered) - limit:,} others", rest)]


def format_share(part: float, total: float = 1, digits: int = 1) -> str:
    """Return a share as a percentage; an empty string if there is no total."""
    return f"{100 * part / total:.{digits}f} %" if total else ""
