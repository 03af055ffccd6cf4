"""What a report says of a DIR: its rows, their counts, its kept pictures, and what leaks between its splits."""

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardsError
from shards.format.index import INDEX_FILE, IndexMetadata, ShardIndex
from shards.format.outcomes import OUTCOMES_FILE, Status
from shards.report.counts import KEPT, ListedRow, StatusCounts, count_statuses, read_rows
from shards.report.split_leaks import NearPair, SplitLeak, find_near_pairs, find_split_leaks
from shards.storage.shard_dir import load_shard_dir
from shards.url_list.provenance import host_of, year_posted

NO_YEAR = "not told"
_LEDGER_COLUMNS = ("row", "status", "bytes", "sha256", "message", "time")


@dataclasses.dataclass(frozen=True)
class RepeatedPicture:
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

    def whole(self) -> StatusCounts:
        """Counts all rows."""
        return StatusCounts("all", Counter(row.status for row in self.rows))

    def by_split(self) -> list[StatusCounts]:
        """Counts by split, sorted."""
        return self._by(lambda row: row.split, str)

    def by_label(self) -> list[StatusCounts]:
        """Counts by class, in label order."""
        return self._by(lambda row: row.label, self.class_name)

    def by_host(self) -> list[StatusCounts]:
        """Counts by the host that a URL names, the one with the most rows first."""
        hosts = self._by(lambda row: host_of(row.image_url), lambda host: host or "(no host)")
        return sorted(hosts, key=lambda host: (-host.total, host.name))

    def by_year(self) -> list[StatusCounts]:
        """Counts by the year in which a photo was posted, as far as its Flickr id tells, in order; NO_YEAR last."""
        return self._by(lambda row: str(year_posted(row.image_url) or NO_YEAR), str)

    def _by(self, key: Callable[[ListedRow], Hashable], name: Callable[[Any], object]) -> list[StatusCounts]:
        counts = count_statuses(self.rows, key)
        return [StatusCounts(str(name(found)), counts[found]) for found in sorted(counts)]

    def owners(self, *, kept: bool) -> SplitLeak:
        """Finds the photographers with rows in several splits, of the whole list or of what was kept."""
        return find_split_leaks((row.owner, row.split) for row in self.rows if not kept or row.status == KEPT)

    def doubles(self) -> SplitLeak:
        """Finds the bodies that were kept in several splits, by their sha256."""
        return find_split_leaks((row.sha256, row.split) for row in self.rows if row.status == KEPT)

    def recurring(self, *, kept: bool) -> list[RepeatedPicture]:
        """Finds placeholders, or kept bodies that came under two URLs or more; those under the most URLs first."""
        urls: dict[str, set[str]] = {}
        first: dict[str, ListedRow] = {}
        for row in sorted(self.rows, key=lambda row: row.row):
            if row.sha256 is not None and row.status == (KEPT if kept else Status.PLACEHOLDER):
                urls.setdefault(row.sha256, set()).add(row.image_url)
                first.setdefault(row.sha256, row)
        found = [
            RepeatedPicture(digest, len(urls[digest]), row.status, row.row, row.image_url, row.bytes or 0)
            for digest, row in first.items()
            if not kept or len(urls[digest]) > 1
        ]
        return sorted(found, key=lambda body: (-body.urls, body.row))


def read_report(root: Path, *, near_duplicates: bool) -> Report:
    """Reads DIR, and hashes its kept pictures where near-duplicates are wanted.

    Raises:
        ShardsError: nothing is there to report, or it can't be read.
    """
    shard_dir = load_shard_dir(root)
    for name in (INDEX_FILE, OUTCOMES_FILE):
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
        near_pairs=find_near_pairs(root, shard_index.table) if near_duplicates else None,
    )


def _read_ledger(root: Path) -> pa.Table:
    path = root / OUTCOMES_FILE
    try:
        return pq.read_table(path, columns=list(_LEDGER_COLUMNS))
    except (OSError, ValueError, pa.ArrowException) as error:
        remedy = f"make it with: python -m shards finalize {root}"
        raise ShardsError(f"{path} can't be read ({str(error).splitlines()[0]}); {remedy}") from error


def show_url(text: str, most: int = 100) -> str:
    """Returns a text from the web fit to be shown: what can't be printed is spelt out, and the end is cut."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in cut)
