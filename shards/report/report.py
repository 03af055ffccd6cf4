"""The contents of a report on a DIR: rows with outcomes, kept pictures, and leaks between the splits."""

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from shards.errors import ShardsError
from shards.format.index import INDEX_FILE, IndexMetadata, ShardIndex
from shards.format.outcomes import OUTCOMES_FILE, Status
from shards.report.counts import (
    KEPT,
    NOT_YET,
    ListedRow,
    StatusCounts,
    StatusGroup,
    count_statuses,
    group_of,
    read_rows,
)
from shards.report.split_leaks import NearPair, SplitLeak, find_near_pairs, find_split_leaks
from shards.storage.shard_dir import load_shard_dir, read_part
from shards.url_list.provenance import host_of, year_posted

UNKNOWN_YEAR = "unknown"  # sorts after the years
NO_HOST = "(no host)"
_OUTCOME_COLUMNS = ("row", "status", "bytes", "sha256", "message", "time")


class RepeatedPicture(NamedTuple):
    """One file that several URLs returned: the first row of the list that has it, and the number of distinct URLs."""

    first: ListedRow
    urls: int


class StatusRow(NamedTuple):
    """A status with its number of rows and the first row that has it; None for kept and pending rows."""

    status: str
    rows: int
    group: StatusGroup
    example: ListedRow | None


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of a report."""

    root: Path  # DIR
    metadata: IndexMetadata  # metadata of the index
    rows: list[ListedRow]  # all rows of the list, with their outcomes
    index: pa.Table  # the kept pictures (`INDEX_SCHEMA`)
    first: dt.datetime | None  # time of the first outcome, in UTC; None if there is none
    last: dt.datetime | None  # time of the last outcome
    near_pairs: list[NearPair] | None  # near-duplicates in different splits; None if they weren't searched for

    def class_name(self, label: int) -> str:
        """Return a label's name."""
        return self.metadata.classes[label] if label < len(self.metadata.classes) else str(label)

    def overall(self) -> StatusCounts:
        """Count all rows."""
        return StatusCounts("all", Counter(row.status for row in self.rows))

    def statuses(self) -> list[StatusRow]:
        """Count by status, the most frequent status first."""
        examples = {row.status: row for row in reversed(self.rows) if row.status not in {KEPT, NOT_YET}}
        counts = sorted(self.overall().statuses.items(), key=lambda item: (-item[1], item[0]))
        return [StatusRow(status, count, group_of(status), examples.get(status)) for status, count in counts]

    def by_split(self) -> list[StatusCounts]:
        """Count by split, sorted."""
        return self._by(lambda row: row.split, str)

    def by_label(self) -> list[StatusCounts]:
        """Count by class, in label order."""
        return self._by(lambda row: row.label, self.class_name)

    def by_host(self) -> list[StatusCounts]:
        """Count by the host in the URL, sorted; empty for a list of local pictures."""
        counts = self._by(lambda row: host_of(row.image_url), lambda host: host or NO_HOST)
        return counts if any(each.name != NO_HOST for each in counts) else []

    def by_year(self) -> list[StatusCounts]:
        """Count by the year of posting in each Flickr id, UNKNOWN_YEAR last; empty if no year is known."""
        counts = self._by(lambda row: str(year_posted(row.image_url) or UNKNOWN_YEAR), str)
        return counts if any(each.name != UNKNOWN_YEAR for each in counts) else []

    def _by(self, key: Callable[[ListedRow], Hashable], name: Callable[[Any], object]) -> list[StatusCounts]:
        counts = count_statuses(self.rows, key)
        return [StatusCounts(str(name(found)), counts[found]) for found in sorted(counts)]

    def owners(self, *, kept: bool) -> SplitLeak:
        """Find the photographers with rows in several splits, among all rows or the kept ones."""
        return find_split_leaks((row.owner, row.split) for row in self.rows if not kept or row.status == KEPT)

    def duplicates(self) -> SplitLeak:
        """Find the pictures that were kept in several splits, by their sha256."""
        return find_split_leaks((row.sha256, row.split) for row in self.rows if row.status == KEPT)

    def repeated_pictures(self, *, kept: bool) -> list[RepeatedPicture]:
        """Find placeholders, or kept pictures with two URLs or more; those with the most URLs first."""
        by_digest: dict[str, list[ListedRow]] = {}
        for row in sorted(self.rows, key=lambda row: row.row):
            if row.sha256 is not None and row.status == (KEPT if kept else Status.PLACEHOLDER):
                by_digest.setdefault(row.sha256, []).append(row)
        found = [RepeatedPicture(rows[0], len({row.image_url for row in rows})) for rows in by_digest.values()]
        repeated = [picture for picture in found if not kept or picture.urls > 1]
        return sorted(repeated, key=lambda picture: (-picture.urls, picture.first.row))


def read_report(root: Path, *, near_duplicates: bool) -> Report:
    """Read DIR, and search its kept pictures for near-duplicates if asked to.

    Raises:
        ShardsError: there is no finished DIR, or it can't be read.
    """
    shard_dir = load_shard_dir(root)
    for name in (INDEX_FILE, OUTCOMES_FILE):
        if not (root / name).is_file():
            raise ShardsError(
                f"{root / name}: no such file; make it with: python -m shards finalize {root}, "
                "or wait until the assembly in progress has ended"
            )
    shard_index = ShardIndex.load(root)
    outcomes = read_part(root, OUTCOMES_FILE, _OUTCOME_COLUMNS, f"make it with: python -m shards finalize {root}")
    times: list[dt.datetime] = outcomes.column("time").to_pylist()
    return Report(
        root=root,
        metadata=shard_index.metadata,
        rows=read_rows(shard_dir.rows, outcomes),
        index=shard_index.table,
        first=min(times, default=None),
        last=max(times, default=None),
        near_pairs=find_near_pairs(root, shard_index.table) if near_duplicates else None,
    )


def printable(text: str, limit: int = 100) -> str:
    """Return a text from the web for display, truncated and with characters escaped that can't be printed."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in cut)
