"""Which picture comes when: a pure function of its position in the run.

Position n = (iteration * iter_size + micro_batch) * batch_size + j is the j-th picture of a batch. Its row, crop and
mirror follow from n and the seed alone, never from ranks, workers or restarts: resuming needs an iteration number and
no loader state, and eight ranks see what one sees.

A full shuffle reads every shard at random. A shuffle within a window reads each from front to back: shards come in a
new order, and those of the window take turns at random, a shard that is done making room for the next.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stylefinetune.config.schema import Config, TrainConfig

CORRUPT_LABEL = -100
"""Stands for a picture that can't be decoded: it has no loss and isn't counted, and its batch keeps its size."""


@dataclasses.dataclass(frozen=True, eq=False)
class ShuffleWindow:
    """How the pictures of so many shards are mixed at a time; one is equal to itself alone, which is quick to tell.

    Attributes:
        size: shards at a time.
        shard: int64[N], each row's shard, as a number from 0.
        depth: float64[N], the share of its shard that lies before each row, 0 to below 1.
        width: float64[N], the share of its shard that each row is.
    """

    size: int
    shard: npt.NDArray[np.int64]
    depth: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]

    @classmethod
    def of(cls, size: int, shards: Sequence[str], offsets: npt.NDArray[np.int64]) -> "ShuffleWindow":
        """Prepares to mix rows that lie in these shards, at these offsets."""
        _, shard, counts = np.unique(np.asarray(shards), return_inverse=True, return_counts=True)
        place = np.empty(len(shard), np.int64)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        place[np.lexsort((offsets, shard))] = np.arange(len(shard)) - starts
        return cls(min(size, len(counts)), shard.astype(np.int64), place / counts[shard], 1 / counts[shard])

    def permutation(self, random: np.random.RandomState) -> npt.NDArray[np.int64]:
        """Returns the rows in a new order.

        In a circle of as many hours as there are shards, one shard begins each hour and lasts `size` hours, its
        pictures spread evenly but for a random moment each. So at any time as many shards are under way.
        """
        hours = int(self.shard.max()) + 1
        begins = random.permutation(hours)[self.shard]
        times = begins + self.size * (self.depth + self.width * random.random_sample(len(self.shard)))
        return np.argsort(times % hours, kind="stable")


@dataclasses.dataclass(frozen=True)
class DataOrder:
    """Which row of a split stands at which position.

    Attributes:
        rows: N, pictures of the split.
        shuffle: draw a new permutation for each epoch; otherwise list order.
        seed: of permutations, crops and mirrors.
        window: shuffle within it; None shuffles all rows.
    """

    rows: int
    shuffle: bool
    seed: int
    window: ShuffleWindow | None = None

    def row(self, position: int) -> int:
        """Returns the row at `position`: place position % N of epoch position // N."""
        epoch, place = divmod(position, self.rows)
        return int(_permutation(self.seed, epoch, self.rows, self.window)[place]) if self.shuffle else place

    def draw(self, position: int) -> tuple[int, int, int]:
        """Returns three independent uniform 64-bit numbers, for the picture's top, left and mirror."""
        top, left, mirror = np.random.Philox(key=[self.seed, 0], counter=[position, 0, 0, 0]).random_raw(3).tolist()
        return top, left, mirror


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def _permutation(seed: int, epoch: int, rows: int, window: ShuffleWindow | None) -> npt.NDArray[np.int64]:
    # NumPy freezes RandomState's stream; a Generator's may change between releases.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
    return window.permutation(random) if window else random.permutation(rows)


@dataclasses.dataclass(frozen=True)
class BatchSlices:
    """The positions that one rank reads, a list for each batch: a DataLoader's batch sampler.

    Attributes:
        start: position of the first picture of the first batch.
        stop: position after the last picture of the last batch.
        batch_size: pictures of a batch, over all ranks; the last batch may be smaller.
        rank: whose slice.
        world_size: of how many ranks.
    """

    start: int
    stop: int
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start
        for size in self.sizes():
            yield list(range(first, first + size)[rank_slice(size, self.rank, self.world_size)])
            first += size

    def __len__(self) -> int:
        return max(0, math.ceil((self.stop - self.start) / self.batch_size))

    def sizes(self) -> Iterator[int]:
        """Yields the size of each batch over all ranks."""
        for first in range(self.start, self.stop, self.batch_size):
            yield min(self.batch_size, self.stop - first)


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """Returns the part of `count` pictures that `rank` takes; parts differ by one at most, and the first are larger."""
    each, more = divmod(count, world_size)
    first = rank * each + min(rank, more)
    return slice(first, first + each + (rank < more))


def train_slices(config: Config, start: int, rank: int, world_size: int) -> BatchSlices:
    """Returns the batches, iter_size for each iteration, from iteration `start` to the end of the run."""
    pictures = config.data.batch_size * config.train.iter_size
    stop = config.train.max_iter * pictures
    return BatchSlices(start * pictures, stop, config.data.batch_size, rank, world_size)


def test_slices(config: Config, rows: int, iteration: int, rank: int, world_size: int) -> BatchSlices:
    """Returns the batches of the test at `iteration`: every picture once, or the next train.test_iter batches.

    Caffe's test cursor carries on from one test to the next; which test this is follows from the iteration.
    """
    size = config.data.phase(training=False).batch_size
    if config.train.test_iter == 0:
        return BatchSlices(0, rows, size, rank, world_size)
    pictures = config.train.test_iter * size
    start = _tests_before(config.train, iteration) * pictures
    return BatchSlices(start, start + pictures, size, rank, world_size)


def _tests_before(train: TrainConfig, iteration: int) -> int:
    if train.test_interval == 0:
        return int(train.test_initialization and iteration > 0)
    skipped = 0 if train.test_initialization else 1
    return max(0, math.ceil(iteration / train.test_interval) - skipped)
