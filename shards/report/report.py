"""The contents of a report on a DIR: numbers of rows by status, kept pictures, and leaks between the splits."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console

from shards.errors import ShardsError
from shards.format.columns import Integers, Names, join_numbers
from shards.format.index import INDEX_FILE, IndexFile
from shards.format.outcomes import NOT_YET, OUTCOMES_FILE, Status, StatusGroup, group_of
from shards.format.repeats import Hashes, find_repeats, hash_text, is_among
from shards.report.counts import StatusCounter, StatusCounts
from shards.report.repeated_pictures import RepeatedPictures, find_repeated_pictures
from shards.report.rows import ListedRow, Rows
from shards.report.split_leaks import NearPair, SplitLeak, find_near_pairs, find_split_leaks
from shards.storage.shard_dir import load_shard_dir
from shards.url_list.provenance import host_of, owner_of, year_posted

UNKNOWN_YEAR = "unknown"  # sorts after the years
NO_HOST = "(no host)"


class StatusRow(NamedTuple):
    """A status with its number of rows and the first row that has it; None for kept and pending rows."""

    status: str
    rows: int
    group: StatusGroup
    example: ListedRow | None


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Columns of the kept pictures, as they are stored."""

    width: Integers  # [N]
    height: Integers  # [N]
    format: Names

    @classmethod
    def read(cls, index: IndexFile) -> "Pictures":
        """Read them from index.parquet.

        Raises:
            ShardsError: it is damaged.
        """
        width, height = (join_numbers(index.read_column(name)) for name in ("width", "height"))
        return cls(width, height, Names.join(index.read_column("format")))


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of a report."""

    root: Path  # DIR
    index: IndexFile
    rows: Rows  # all rows of the list, with their outcomes
    hosts: Names  # the host in each row's URL; NO_HOST for none
    pictures: Pictures  # the kept ones
    statuses: list[StatusRow]  # the most frequent status first
    by_split: list[StatusCounts]  # sorted
    by_label: list[StatusCounts]  # by class, in label order
    by_host: list[StatusCounts]  # by the host in the URL, sorted; empty for a list of local pictures
    by_year: list[StatusCounts]  # by the year of posting in each Flickr id, UNKNOWN_YEAR last; empty if none is known
    owners: SplitLeak  # photographers with rows in several splits
    kept_owners: SplitLeak  # photographers with kept pictures in several splits
    duplicates: SplitLeak  # pictures that were kept in several splits, by their sha256
    conflicts: SplitLeak | None  # kept pictures in several classes, by a URL; None if a row may have several labels
    repeated: RepeatedPictures  # kept pictures with two URLs or more
    placeholders: RepeatedPictures
    near_pairs: list[NearPair] | None  # near-duplicates in different splits; None if they weren't searched for

    @property
    def overall(self) -> StatusCounts:
        """The numbers of all rows."""
        return StatusCounts("all", sum((each.statuses for each in self.by_split), Counter[str]()))

    def class_name(self, label: int) -> str:
        """Return a label's name."""
        return _class_name(self.index, label)


def _class_name(index: IndexFile, label: int) -> str:
    classes = index.metadata.classes
    return classes[label] if label < len(classes) else str(label)


def read_report(root: Path, *, near_duplicates: bool, console: Console | None = None) -> Report:
    """Read DIR, and search its kept pictures for near-duplicates if asked to; `console` gets the progress of that.

    Raises:
        ShardsError: there is no finished DIR, or it can't be read.
    """
    load_shard_dir(root)  # checks that there is one
    for name in (INDEX_FILE, OUTCOMES_FILE):
        if not (root / name).is_file():
            raise ShardsError(
                f"{root / name}: no such file; make it with: shards finalize {root}, "
                "or wait until the assembly in progress has ended"
            )
    index, rows = IndexFile(root), Rows.load(root)
    is_kept, is_placeholder = rows.has_status(Status.KEPT), rows.has_status(Status.PLACEHOLDER)
    bodies = np.where(is_kept, rows.body, 0)
    owners = _hash_owners(rows)
    may_repeat = is_among(rows.body, find_repeats([bodies])) & is_kept | is_placeholder & (rows.body != 0)
    hosts, by_year, urls = _read_urls(rows, may_repeat)
    repeated, placeholders = (
        find_repeated_pictures(rows, np.flatnonzero(may_repeat)[chosen[may_repeat]], urls[chosen[may_repeat]], least)
        for chosen, least in ((is_kept, 2), (is_placeholder, 1))
    )
    return Report(
        root=root,
        index=index,
        rows=rows,
        hosts=hosts,
        pictures=Pictures.read(index),
        statuses=_count_statuses(rows),
        by_split=_count(rows, rows.split.codes).to_list(lambda code: rows.split.distinct[code]),
        by_label=_count_labels(rows).to_list(lambda label: _class_name(index, label)),
        by_host=_count(rows, hosts.codes).to_list(hosts.distinct.__getitem__) if hosts.distinct != [NO_HOST] else [],
        by_year=by_year,
        owners=find_split_leaks(owners, rows.split, lambda positions: _read_owners(rows, positions)),
        kept_owners=find_split_leaks(
            np.where(is_kept, owners, 0), rows.split, lambda positions: _read_owners(rows, positions)
        ),
        duplicates=find_split_leaks(
            bodies, rows.split, lambda at: [row["sha256"] for row in rows.read_outcomes(at, ["sha256"])]
        ),
        conflicts=_find_conflicts(index, rows, bodies) if rows.labels is None else None,
        repeated=repeated,
        placeholders=placeholders,
        near_pairs=find_near_pairs(root, index, console) if near_duplicates else None,
    )


def _find_conflicts(index: IndexFile, rows: Rows, bodies: Hashes) -> SplitLeak:
    """Find equal pictures in several classes; `bodies` are the hashes of the kept ones."""
    classes = [_class_name(index, label) for label in range(int(rows.label.max(initial=0)) + 1)]
    return find_split_leaks(
        bodies, Names(classes, rows.label), lambda at: [row.image_url for row in rows.read_rows(at)]
    )


def _count(rows: Rows, keys: Integers) -> StatusCounter[int]:
    counter = StatusCounter[int](rows.status)
    counter.add(slice(0, len(rows)), keys)
    return counter


def _count_labels(rows: Rows) -> StatusCounter[int]:
    """Count by label; a row counts for each of its labels."""
    if rows.labels is None:
        return _count(rows, rows.label)
    counter = StatusCounter[int](Names(rows.status.distinct, np.repeat(rows.status.codes, rows.labels.counts)))
    counter.add(slice(0, len(rows.labels.values)), rows.labels.values.tolist())
    return counter


def _count_statuses(rows: Rows) -> list[StatusRow]:
    """Count by status, and read the first row of each."""
    codes, first, counts = np.unique(rows.status.codes, return_index=True, return_counts=True)
    names = [rows.status.distinct[code] for code in codes.tolist()]
    shown = [at for name, at in zip(names, first.tolist(), strict=True) if name not in {Status.KEPT, NOT_YET}]
    examples = {row.status: row for row in rows.read_rows(np.array(sorted(shown), np.int64))}
    found = [
        StatusRow(name, count, group_of(name), examples.get(name))
        for name, count in zip(names, counts.tolist(), strict=True)
    ]
    return sorted(found, key=lambda row: (-row.rows, row.status))


def _read_urls(rows: Rows, chosen: npt.NDArray[np.bool_]) -> tuple[Names, list[StatusCounts], Hashes]:
    """Return the host of each row, count by year, and hash the URLs of the chosen rows."""
    years = StatusCounter[str](rows.status)
    hashes = [np.empty(0, np.int64)]

    def read_hosts() -> Iterator[pa.Array]:
        for block, urls in rows.read_blocks("image_url"):
            years.add(block, (str(year_posted(url) or UNKNOWN_YEAR) for url in urls))
            hashes.append(np.array([*map(hash_text, itertools.compress(urls, chosen[block]))], np.int64))
            yield pa.array([host_of(url) or NO_HOST for url in urls], pa.string())

    hosts = Names.join(read_hosts())
    by_year = years.to_list(str)
    return hosts, by_year if any(each.name != UNKNOWN_YEAR for each in by_year) else [], np.concatenate(hashes)


def _hash_owners(rows: Rows) -> Hashes:
    """Hash the photographer of each row; 0 for none."""
    parts = [np.empty(0, np.int64)]
    for _, extras in rows.read_blocks("extra"):
        parts.append(np.array([hash_text(_owner_in(extra)) for extra in extras], np.int64))
    return np.concatenate(parts)


def _read_owners(rows: Rows, positions: npt.NDArray[np.int64]) -> list[str]:
    """Return the photographers of rows that have one."""
    return [str(_owner_in(extra)) for extra in rows.read(positions, "extra")]


def _owner_in(extra: str) -> str | None:
    columns: dict[str, Any] = json.loads(extra)
    return owner_of(columns)


def printable(text: str, limit: int = 100) -> str:
    """Return a text from the web for display, truncated and with characters escaped that can't be printed."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in cut)
