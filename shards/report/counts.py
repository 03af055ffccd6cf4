"""The ledger's rows and their counts: what became of a list, by whatever one asks for."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import pyarrow as pa

from shards.format.outcomes import TRANSIENT_STATUSES, Status
from shards.url_list.provenance import owner_of

KEPT = str(Status.KEPT)
NOT_YET = "not_yet"  # of a row whose block isn't committed; the ledger never holds it


@dataclasses.dataclass(frozen=True)
class StatusGroup:
    """Statuses that mean much the same to whoever wants the picture.

    Attributes:
        key: one word.
        name: for people.
        meaning: for people, in a clause.
        statuses: words of `outcomes.Status`.
    """

    key: str
    name: str
    meaning: str
    statuses: frozenset[str]


STATUS_GROUPS = (
    StatusGroup("kept", "kept", "a picture, packed in a shard", frozenset({KEPT})),
    StatusGroup(
        "lost",
        "lost",
        "gone for good: the host says so, refuses, or shows something else",
        frozenset({"not_found", "gone", "forbidden", "http_error", "too_many_redirects", "redirect_refused"})
        | {"placeholder", "unsupported_url", "missing_file"},
    ),
    StatusGroup(
        "silent",
        "no answer",
        "failed in a way that may pass; ask again with --retry passing",
        frozenset(str(status) for status in TRANSIENT_STATUSES) | {"cancelled", "download_error"},
    ),
    StatusGroup(
        "unusable",
        "unusable",
        "a body came that is no picture worth keeping",
        frozenset({"not_an_image", "bad_encoding", "corrupt", "too_small", "too_many_pixels", "too_large"})
        | {"hash_mismatch"},
    ),
    StatusGroup(
        "left_out", "left out", "asked not to be used, or a double of one kept", frozenset({"noai", "duplicate"})
    ),
    StatusGroup("pending", "not yet", "its block isn't committed; assemble goes on with it", frozenset({NOT_YET})),
)
_GROUP_OF = {status: family.key for family in STATUS_GROUPS for status in family.statuses}


class ListedRow(NamedTuple):
    """A row of the list, with what became of it."""

    row: int
    image_url: str
    split: str
    label: int
    owner: str | None
    status: str
    bytes: int | None
    sha256: str | None
    message: str


@dataclasses.dataclass(frozen=True)
class StatusCounts:
    """How many rows of one kind came to what.

    Attributes:
        name: the kind.
        statuses: counts, of the statuses that occurred.
    """

    name: str
    statuses: Counter[str]

    @property
    def total(self) -> int:
        """Returns how many rows there are."""
        return self.statuses.total()

    @property
    def kept(self) -> int:
        """Returns how many became pictures in the shards."""
        return self.statuses[KEPT]

    def families(self) -> dict[str, int]:
        """Returns the counts by family, every family in its order."""
        counts = dict.fromkeys((family.key for family in STATUS_GROUPS), 0)
        for status, count in self.statuses.items():
            counts[group_of(status)] += count
        return counts


def group_of(status: str) -> str:
    """Returns the key of a status's family."""
    return _GROUP_OF.get(status, "lost")


def read_rows(listed: pa.Table, ledger: pa.Table) -> list[ListedRow]:
    """Joins a list's rows (`urls.ROWS_SCHEMA`) with the ledger (`outcomes.SCHEMA`), in the order of the rows."""
    found = (ledger.column(name).to_pylist() for name in ("row", "status", "bytes", "sha256", "message"))
    came = {row: tuple(rest) for row, *rest in zip(*found, strict=True)}
    columns = (listed.column(name).to_pylist() for name in ("row", "image_url", "split", "label", "extra"))
    return [
        ListedRow(row, url, split, label, owner_of(json.loads(extra)), *came.get(row, (NOT_YET, None, None, "")))
        for row, url, split, label, extra in zip(*columns, strict=True)
    ]


def count_statuses(rows: Iterable[ListedRow], key: Callable[[ListedRow], Hashable]) -> dict[Any, Counter[str]]:
    """Counts statuses by whatever `key` says of a row."""
    counts: dict[Any, Counter[str]] = {}
    for row in rows:
        counts.setdefault(key(row), Counter())[row.status] += 1
    return counts


def largest_groups(tallies: list[StatusCounts], most: int) -> list[StatusCounts]:
    """Returns the largest tallies first, with all beyond `most` in one called "N others"."""
    ordered = sorted(tallies, key=lambda counts: (-counts.total, counts.name))
    if len(ordered) <= most:
        return ordered
    rest = sum((counts.statuses for counts in ordered[most:]), Counter[str]())
    return [*ordered[:most], StatusCounts(f"{len(ordered) - most:,} others", rest)]
