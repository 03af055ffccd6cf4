"""Leaks between the splits: photographers, equal files and similar pictures that are in more than one split."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from shards.format.tar import members_of
from shards.report.near_duplicates import NEAR_DUPLICATE_BITS, hash_pictures, nearest


@dataclasses.dataclass(frozen=True)
class SplitLeak:
    """The keys, such as photographers, that have rows in more than one split."""

    keys: int  # number of all keys
    shared: dict[str, dict[str, int]]  # number of rows by split, of keys in several splits; those with most rows first

    def rows_in(self, split: str) -> int:
        """Return the number of rows of a split whose keys are in another split too."""
        return sum(rows.get(split, 0) for rows in self.shared.values())


def find_split_leaks(pairs: Iterable[tuple[str | None, str]]) -> SplitLeak:
    """Find the keys in several splits, from pairs of key and split; ignore None."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for key, split in pairs:
        if key is not None:
            counts[key][split] += 1
    shared = {key: dict(sorted(rows.items())) for key, rows in counts.items() if len(rows) > 1}
    ordered = sorted(shared.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return SplitLeak(len(counts), dict(ordered))


@dataclasses.dataclass(frozen=True)
class NearPair:
    """Two similar kept pictures in different splits, with different bytes."""

    row: int  # row of the list, in the smaller split
    other: int  # row of the nearest picture in the other split
    bits: int  # number of bits in which their hashes differ, of `near_duplicates.BITS`


def find_near_pairs(root: Path, index: pa.Table) -> list[NearPair]:
    """Find the near-duplicate of each kept picture in each larger split, if there is one; sort by distance.

    Skips pictures whose bytes are in both splits, which are found without a hash.

    Raises:
        ShardsError: a picture can't be read.
    """
    bits = hash_pictures(root, members_of(index))
    rows, digests, splits = (index.column(name).to_pylist() for name in ("row", "sha256", "split"))
    positions: dict[str, list[int]] = collections.defaultdict(list)
    for position, split in enumerate(splits):
        positions[split].append(position)
    pairs: list[NearPair] = []
    by_size = sorted(positions.values(), key=lambda inside: (len(inside), inside))
    for smaller, larger in itertools.combinations(by_size, 2):
        in_larger = {digests[position] for position in larger}
        queries = [position for position in smaller if digests[position] not in in_larger]
        found, distances = nearest(bits[queries], bits[larger])
        pairs += [
            NearPair(rows[position], rows[larger[other]], int(distance))
            for position, other, distance in zip(queries, found.tolist(), distances.tolist(), strict=True)
            if distance <= NEAR_DUPLICATE_BITS
        ]
    return sorted(pairs, key=lambda pair: (pair.bits, pair.row, pair.other))
