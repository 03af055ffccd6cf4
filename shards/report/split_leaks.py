"""What stands in more than one split: photographers, equal bytes, and pictures that look alike."""

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
    """Which of some keys, such as photographers, have rows in more than one split.

    Attributes:
        keys: how many there are in all.
        across: rows by split, of each key that stands in several; the ones with the most rows first.
    """

    keys: int
    across: dict[str, dict[str, int]]

    def rows_in(self, split: str) -> int:
        """Returns how many rows of a split belong to keys that stand in another one, too."""
        return sum(rows.get(split, 0) for rows in self.across.values())


def find_split_leaks(pairs: Iterable[tuple[str | None, str]]) -> SplitLeak:
    """Finds the keys that stand in several splits, of pairs of key and split; None is no key."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for key, split in pairs:
        if key is not None:
            counts[key][split] += 1
    across = {key: dict(sorted(rows.items())) for key, rows in counts.items() if len(rows) > 1}
    ordered = sorted(across.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return SplitLeak(len(counts), dict(ordered))


@dataclasses.dataclass(frozen=True)
class NearPair:
    """Two kept pictures of different splits that look alike and whose bytes differ.

    Attributes:
        row: of the list, in the smaller split.
        other: row of the nearest picture in the other split.
        bits: by how many their hashes differ, of near.BITS.
    """

    row: int
    other: int
    bits: int


def find_near_pairs(root: Path, index: pa.Table) -> list[NearPair]:
    """Finds for each kept picture the nearest one in each larger split, where they are near; the nearest pairs first.

    Pictures whose bytes stand in both splits are left out: they need no hash.

    Raises:
        ShardsError: a picture can't be read.
    """
    bits = hash_pictures(root, members_of(index))
    rows, digests, splits = (index.column(name).to_pylist() for name in ("row", "sha256", "split"))
    places: dict[str, list[int]] = collections.defaultdict(list)
    for place, split in enumerate(splits):
        places[split].append(place)
    pairs: list[NearPair] = []
    by_size = sorted(places.values(), key=lambda inside: (len(inside), inside))
    for smaller, larger in itertools.combinations(by_size, 2):
        there = {digests[place] for place in larger}
        asked = [place for place in smaller if digests[place] not in there]
        found, distances = nearest(bits[asked], bits[larger])
        pairs += [
            NearPair(rows[place], rows[larger[other]], int(distance))
            for place, other, distance in zip(asked, found.tolist(), distances.tolist(), strict=True)
            if distance <= NEAR_DUPLICATE_BITS
        ]
    return sorted(pairs, key=lambda pair: (pair.bits, pair.row, pair.other))
