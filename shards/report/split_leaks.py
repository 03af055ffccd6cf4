"""Leaks between the splits: photographers, equal files and similar pictures that are in more than one split."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from shards.format.columns import Names, join_numbers
from shards.format.index import IndexFile
from shards.format.repeats import Hashes, find_repeats, hash_texts, is_among
from shards.report.near_duplicates import NEAR_DUPLICATE_BITS, hash_pictures, nearest

MAX_NAMED = 12  # keys that are named


@dataclasses.dataclass(frozen=True)
class SplitLeak:
    """The keys, such as photographers, that have rows in more than one split."""

    keys: int  # number of all keys
    shared: int  # number of keys in several splits
    rows: dict[str, int]  # number of rows by split, of all keys in several splits
    largest: dict[str, dict[str, int]]  # the same of each of the MAX_NAMED keys with most rows; those come first


def find_split_leaks(keys: Hashes, splits: Names, read_keys: Callable[[npt.NDArray[np.int64]], list[str]]) -> SplitLeak:
    """Find the keys in several splits, or in several of other groups of rows, such as classes.

    Args:
        keys: each row's key as a hash; 0 for none.
        splits: each row's split.
        read_keys: returns the keys at positions, which ascend.
    """
    repeats = find_repeats([keys])
    is_repeated = is_among(keys, repeats)
    count = int(np.count_nonzero(keys) - np.count_nonzero(is_repeated)) + len(repeats)
    rows = pa.table({"key": keys[is_repeated], "split": splits.codes[is_repeated]})
    groups = rows.group_by(["key", "split"]).aggregate([([], "count_all")]).rename_columns(["key", "split", "rows"])
    by_key = groups.group_by("key").aggregate([("rows", "sum"), ("rows", "count")])
    by_key = by_key.filter(pc.field("rows_count") > 1).sort_by("key")
    shared = by_key.column("key").to_numpy()
    groups = groups.filter(pa.array(is_among(groups.column("key").to_numpy(), shared)))
    by_split = dict.fromkeys(splits.distinct, 0)
    for code, number in zip(groups.column("split").to_pylist(), groups.column("rows").to_pylist(), strict=True):
        by_split[splits.distinct[code]] += number
    totals = by_key.column("rows_sum").to_numpy()
    least = np.sort(totals)[-MAX_NAMED:].min(initial=0)  # several keys may have so many rows
    candidates = shared[totals >= least]
    positions = np.flatnonzero(is_among(keys, candidates))
    positions = np.sort(positions[np.unique(keys[positions], return_index=True)[1]])
    names = dict(zip(keys[positions].tolist(), read_keys(positions), strict=True))
    found: dict[str, dict[str, int]] = {name: {} for name in names.values()}
    for group in groups.filter(pa.array(is_among(groups.column("key").to_numpy(), candidates))).to_pylist():
        found[names[group["key"]]][splits.distinct[group["split"]]] = group["rows"]
    ordered = sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0]))[:MAX_NAMED]
    return SplitLeak(count, len(shared), by_split, {name: dict(sorted(rows.items())) for name, rows in ordered})


@dataclasses.dataclass(frozen=True)
class NearPair:
    """Two similar kept pictures in different splits, with different bytes."""

    row: int  # row of the list, in the smaller split
    other: int  # row of the nearest picture in the other split
    bits: int  # number of bits in which their hashes differ, of `near_duplicates.BITS`


def find_near_pairs(root: Path, index: IndexFile, console: Console | None = None) -> list[NearPair]:
    """Find the near-duplicate of each kept picture in each larger split, if there is one; sort by distance.

    Skips pictures whose bytes are in both splits, which are found without a hash. `console` gets the progress.

    Raises:
        ShardsError: a picture can't be read.
    """
    hashes = hash_pictures(root, index, console)
    rows, splits = join_numbers(index.read_column("row")), Names.join(index.read_column("split"))
    bodies = np.concatenate([np.empty(0, np.int64), *map(hash_texts, index.read_column("sha256"))])
    positions = [np.flatnonzero(splits.codes == code) for code in range(len(splits.distinct))]
    pairs: list[NearPair] = []
    by_size = sorted(positions, key=lambda inside: (len(inside), inside[0]))
    for smaller, larger in itertools.combinations(by_size, 2):
        queries = smaller[~is_among(bodies[smaller], np.sort(bodies[larger]))]
        found, distances = nearest(hashes.select(queries), hashes.select(larger))
        near = distances <= NEAR_DUPLICATE_BITS
        columns = (rows[queries[near]], rows[larger[found[near]]], distances[near])
        pairs += itertools.starmap(NearPair, zip(*(column.tolist() for column in columns), strict=True))
    return sorted(pairs, key=lambda pair: (pair.bits, pair.row, pair.other))
