"""The order of the pictures: a pure function of the position in the run.

Position n = (iteration * iter_size + micro_batch) * batch_size + j is the j-th picture of a batch. Its row, crop and
mirror depend only on n and the seed, never on ranks, workers or restarts. So resuming needs an iteration number and no
loader state, and eight ranks read the same pictures as one.

A full shuffle reads every shard at random offsets. A shuffle within a window reads each shard from front to back: the
shards are shuffled, and the pictures of the shards in the window are interleaved at random. A shard that has been read
is replaced in the window by the next.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from shards.format.columns import Integers


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, which is fast, as a key of the cache below
class ShuffleWindow:
    """A shuffle that mixes the pictures of a few shards at a time."""

    size: int  # number of shards in the window
    counts: npt.NDArray[np.int64]  # [S], number of rows of each shard
    shard: Integers  # [N], number of each row's shard, from 0
    place: npt.NDArray[np.int32]  # [N], of each row in its shard, from 0

    @classmethod
    def from_index(cls, size: int, shards: Integers, offsets: Integers) -> "ShuffleWindow":
        """Build the window from the shard of each row, numbered from 0 without gaps, and its offset in the shard."""
        counts = np.bincount(shards)
        place = np.empty(len(shards), np.int32)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        place[np.lexsort((offsets, shards))] = np.arange(len(shards)) - starts
        return cls(min(size, len(counts)), counts, shards, place)

    def permutation(self, random: np.random.RandomState) -> npt.NDArray[np.int64]:
        """Return the rows in a new order.

        Time is a circle of as many units as there are shards. One shard begins at each unit and lasts `size` units, so
        `size` shards overlap at any time. Each picture gets a random time within its own part of its shard.
        """
        units = len(self.counts)
        begins = random.permutation(units)
        times = random.random_sample(len(self.shard))  # changed in place, since it is large
        times *= (1 / self.counts)[self.shard]
        times += self.place / self.counts[self.shard]
        times *= self.size
        times += begins[self.shard]
        times %= units
        return np.argsort(times, kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class ClassBalance:
    """A shuffle with the pictures of all classes equally often: some of large classes, those of small ones repeatedly.

    A picture is drawn again only when all of its class have been drawn.
    """

    rows: list[npt.NDArray[np.int64]]  # of each class that has pictures

    @classmethod
    def from_labels(cls, labels: Integers) -> "ClassBalance":
        """Find the rows of each class from the label of each row."""
        by_class = np.argsort(labels, kind="stable")
        _, counts = np.unique(labels, return_counts=True)
        return cls(np.split(by_class, np.cumsum(counts)[:-1]))

    def permutation(self, random: np.random.RandomState) -> npt.NDArray[np.int64]:
        """Return as many rows as there are pictures; the numbers of rows of two classes differ by at most one."""
        each, more = divmod(sum(map(len, self.rows)), len(self.rows))
        places = each + (random.permutation(len(self.rows)) < more)
        drawn = [_draw_in_turn(random, rows, count) for rows, count in zip(self.rows, places.tolist(), strict=True)]
        order = np.concatenate(drawn)
        random.shuffle(order)
        return order


def _draw_in_turn(random: np.random.RandomState, rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return `count` of the rows: permutations of them, the last one cut."""
    permutations = [random.permutation(rows) for _ in range(math.ceil(count / len(rows)))]
    return np.concatenate([*permutations, rows[:0]])[:count]


@dataclasses.dataclass(frozen=True)
class DataOrder:
    """The row of a split at each position."""

    rows: int  # N, number of pictures of the split
    shuffle: bool  # draw a new permutation for each epoch; otherwise list order
    seed: int  # of permutations, crops and mirrors
    window: ShuffleWindow | ClassBalance | None = None  # another order of an epoch than a permutation of all rows

    def row(self, position: int) -> int:
        """Return the row at `position`: number `position % N` of epoch `position // N`."""
        epoch, index = divmod(position, self.rows)
        return int(_permutation(self.seed, epoch, self.rows, self.window)[index]) if self.shuffle else index

    def rows_at(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows at several positions: int64[b]."""
        epochs, rows = np.divmod(np.array(positions, np.int64), self.rows)
        for epoch in np.unique(epochs).tolist() if self.shuffle else ():
            chosen = epochs == epoch
            rows[chosen] = _permutation(self.seed, epoch, self.rows, self.window)[rows[chosen]]
        return rows

    def random_values(self, first: int, count: int) -> npt.NDArray[np.uint64]:
        """Return independent uniform numbers for the pictures at `count` positions from `first`: uint64[3, count].

        They are for the crop's top and left and for the mirror. Philox makes four numbers for each value of its
        counter, of which three are used; so the numbers of a position do not depend on `first`.
        """
        generator = np.random.Philox(key=[self.seed, 0], counter=[first, 0, 0, 0])
        return generator.random_raw(4 * count).reshape(count, 4)[:, :3].T


@functools.lru_cache(maxsize=2)  # a batch may contain the end of one epoch and the start of the next
def _permutation(
    seed: int, epoch: int, rows: int, window: ShuffleWindow | ClassBalance | None
) -> npt.NDArray[np.uint32 | np.uint64]:
    # NumPy guarantees RandomState's stream; a Generator's may change between releases.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
    kind = np.uint32 if rows < 1 << 32 else np.uint64
    if window:
        return window.permutation(random).astype(kind)
    permutation = np.arange(rows, dtype=kind)
    random.shuffle(permutation)  # the same order as of `permutation`, which needs eight bytes a row
    return permutation


@dataclasses.dataclass(frozen=True)
class RankBatchSampler:
    """A DataLoader's batch sampler: the positions that one rank reads, one list per batch."""

    start: int  # position of the first picture of the first batch
    stop: int  # position after the last picture of the last batch
    batch_size: int  # over all ranks; the last batch may be smaller
    rank: int
    world_size: int
    # For MixUp: whether each list begins with the picture before it in the batch, or with the batch's last picture.
    partners: bool = False

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start
        for size in self.sizes():
            part = rank_slice(size, self.rank, self.world_size)
            positions = list(range(first, first + size)[part])
            if self.partners and positions:
                positions.insert(0, first + (part.start - 1) % size)
            yield positions
            first += size

    def __len__(self) -> int:
        return max(0, math.ceil((self.stop - self.start) / self.batch_size))

    def sizes(self) -> Iterator[int]:
        """Yield the size of each batch, over all ranks."""
        for first in range(self.start, self.stop, self.batch_size):
            yield min(self.batch_size, self.stop - first)


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """Return the slice of `count` pictures for `rank`; sizes differ by at most one, and the first ranks' are larger."""
    size, larger = divmod(count, world_size)
    first = rank * size + min(rank, larger)
    return slice(first, first + size + (rank < larger))
