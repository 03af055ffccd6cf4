"""Starts the processes that read the pictures of a training run."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from shards.format.order import RankBatchSampler
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.loader import BatchLoader
from stylefinetune.data.staging.stream import ShardStream
from stylefinetune.distributed.world import World


class Loader(Protocol):
    """Gives the batches of a split."""

    def load(self, sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return an iterator over this rank's slices of the batches, in order; it ends an earlier iterator."""
        ...


class Loaders(NamedTuple):
    """The loaders of a run."""

    train: Loader
    test: Loader | None  # None disables tests


class StreamLoader:
    """Gives the batches of another loader, whose shards are copied ahead of their use."""

    def __init__(self, loader: Loader, stream: ShardStream) -> None:
        self._loader = loader
        self._stream = stream

    def load(self, sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return the loader's iterator; called once."""
        self._stream.start(sampler.start, sampler.stop)
        starts = itertools.accumulate(sampler.sizes(), initial=sampler.start)
        return map(self._record, self._loader.load(sampler), starts)

    def _record(self, batch: Batch, start: int) -> Batch:
        """Record that the pictures up to the end of a batch have been read."""
        self._stream.advance(start + batch.size)
        return batch


def start_loaders(
    config: Config,
    train_set: PictureDataset,
    test_set: PictureDataset | None,
    world: World,
    stream: ShardStream | None = None,
) -> Loaders:
    """Start the processes of both loaders, `data.workers` each, before the first iteration.

    The processes of tests wait between the tests. If a test started them, each would be a fork that has to wait for
    running collectives, and would keep a copy of all memory that training changes later.
    """
    world.drain_collectives()
    workers, device = config.data.workers, world.device
    train_slice, test_slice = (
        math.ceil(config.data.phase(training=training).batch_size / world.size) for training in (True, False)
    )
    train = BatchLoader(train_set, train_slice + config.data.is_mixed, workers, device, at_once=config.train.iter_size)
    test = BatchLoader(test_set, test_slice, workers, device) if test_set else None
    return Loaders(StreamLoader(train, stream) if stream else train, test)
