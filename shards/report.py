"""What a report says of a DIR: its rows, their counts, its kept pictures, and what leaks between its splits."""

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards import blocks, index, leaks, outcomes
from shards.index import IndexMetadata, ShardIndex, ShardsError
from shards.leaks import NearPair, Shared
from shards.origin import host_of, year_posted
from shards.tally import KEPT, ListedRow, Tally, read_rows, tally

NO_YEAR = "not told"
_LEDGER_COLUMNS = ("row", "status", "bytes", "sha256", "message", "time")


@dataclasses.dataclass(frozen=True)
class Recurring:
    """One body that came under several URLs.

    Attributes:
        sha256: hex.
        urls: under how many distinct URLs.
        status: of the first row that has it.
        row: that row.
        url: that row's.
        bytes: its length.
    """

    sha256: str
    urls: int
    status: str
    row: int
    url: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Report:
    """A DIR as it stands.

    Attributes:
        root: DIR.
        metadata: of its index.
        rows: of the list, every one, with what became of it.
        index: the kept pictures, `index.SCHEMA`.
        first: when the first row that is in the ledger was settled, in UTC; None where there is none.
        last: when the last one was.
        near_pairs: None where they weren't looked for.
    """

    root: Path
    metadata: IndexMetadata
    rows: list[ListedRow]
    index: pa.Table
    first: dt.datetime | None
    last: dt.datetime | None
    near_pairs: list[NearPair] | None

    def class_name(self, label: int) -> str:
        """Returns a label's name."""
        return self.metadata.classes[label] if label < len(self.metadata.classes) else str(label)

    def whole(self) -> Tally:
        """Counts all rows."""
        return Tally("all", Counter(row.status for row in self.rows))

    def by_split(self) -> list[Tally]:
        """Counts by split, sorted."""
        return self._by(lambda row: row.split, str)

    def by_label(self) -> list[Tally]:
        """Counts by class, in label order."""
        return self._by(lambda row: row.label, self.class_name)

    def by_host(self) -> list[Tally]:
        """Counts by the host that a URL names, the one with the most rows first."""
        hosts = self._by(lambda row: host_of(row.image_url), lambda host: host or "(no host)")
        return sorted(hosts, key=lambda host: (-host.total, host.name))

    def by_year(self) -> list[Tally]:
        """Counts by the year in which a photo was posted, as far as its Flickr id tells, in order; NO_YEAR last."""
        return self._by(lambda row: str(year_posted(row.image_url) or NO_YEAR), str)

    def _by(self, key: Callable[[ListedRow], Hashable], name: Callable[[Any], object]) -> list[Tally]:
        counts = tally(self.rows, key)
        return [Tally(str(name(found)), counts[found]) for found in sorted(counts)]

    def owners(self, *, kept: bool) -> Shared:
        """Finds the photographers with rows in several splits, of the whole list or of what was kept."""
        return leaks.find_shared((row.owner, row.split) for row in self.rows if not kept or row.status == KEPT)

    def doubles(self) -> Shared:
        """Finds the bodies that were kept in several splits, by their sha256."""
        return leaks.find_shared((row.sha256, row.split) for row in self.rows if row.status == KEPT)

    def recurring(self, *, kept: bool) -> list[Recurring]:
        """Finds placeholders, or kept bodies that came under two URLs or more; those under the most URLs first."""
        urls: dict[str, set[str]] = {}
        first: dict[str, ListedRow] = {}
        for row in sorted(self.rows, key=lambda row: row.row):
            if row.sha256 is not None and row.status == (KEPT if kept else outcomes.Status.PLACEHOLDER):
                urls.setdefault(row.sha256, set()).add(row.image_url)
                first.setdefault(row.sha256, row)
        found = [
            Recurring(digest, len(urls[digest]), row.status, row.row, row.image_url, row.bytes or 0)
            for digest, row in first.items()
            if not kept or len(urls[digest]) > 1
        ]
        return sorted(found, key=lambda body: (-body.urls, body.row))


def read_report(root: Path, *, near_duplicates: bool) -> Report:
    """Reads DIR, and hashes its kept pictures where near-duplicates are wanted.

    Raises:
        ShardsError: nothing is there to report, or it can't be read.
    """
    shard_dir = blocks.load(root)
    for name in (index.FILE_NAME, outcomes.FILE_NAME):
        if not (root / name).is_file():
            raise ShardsError(
                f"{root / name}: no such file; make it with: python -m shards finalize {root}, "
                "or let the assembly that is under way come to its end"
            )
    shard_index = ShardIndex.load(root)
    ledger = _read_ledger(root)
    times: list[dt.datetime] = ledger.column("time").to_pylist()
    return Report(
        root=root,
        metadata=shard_index.metadata,
        rows=read_rows(shard_dir.rows, ledger),
        index=shard_index.table,
        first=min(times, default=None),
        last=max(times, default=None),
        near_pairs=leaks.find_near_pairs(root, shard_index.table) if near_duplicates else None,
    )


def _read_ledger(root: Path) -> pa.Table:
    path = root / outcomes.FILE_NAME
    try:
        return pq.read_table(path, columns=list(_LEDGER_COLUMNS))
    except (OSError, ValueError, pa.ArrowException) as error:
        remedy = f"make it with: python -m shards finalize {root}"
        raise ShardsError(f"{path} can't be read ({str(error).splitlines()[0]}); {remedy}") from error


def show(text: str, most: int = 100) -> str:
    """Returns a text from the web fit to be shown: what can't be printed is spelt out, and the end is cut."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in cut)
