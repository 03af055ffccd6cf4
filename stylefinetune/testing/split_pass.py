"""Reads all pictures of a split once, on any number of ranks."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator, Iterator

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from shards.format.index import ShardIndex
from shards.format.order import RankBatchSampler
from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.loader import load_batches
from stylefinetune.data.staging.source import shard_source
from stylefinetune.data.staging.stage import stage_shards
from stylefinetune.distributed.world import World
from stylefinetune.training.evaluation import exit_if_lost


@dataclasses.dataclass(frozen=True)
class WholeBatches(RankBatchSampler):
    """The batches of one of `readers` ranks, which take whole batches in turn.

    What a network computes for a picture depends a little on the number of pictures in its batch. So it is bitwise the
    same on any number of ranks.
    """

    reader: int = 0
    readers: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(self.start, self.stop, self.batch_size)[self.reader :: self.readers]:
            yield list(range(first, min(first + self.batch_size, self.stop)))

    def sizes(self) -> Iterator[int]:
        """Yield the size of each batch of this rank."""
        return map(len, self)


@contextlib.contextmanager
def read_once(
    saved: Checkpoint,
    index: ShardIndex,
    pictures: PictureDataset,
    sampler: RankBatchSampler,
    world: World,
    workers: int | None,
    what: str = "pictures",
) -> Generator[Iterator[Batch]]:
    """Yield this rank's batches; at the end, corrupt pictures are reported. Collective.

    The shards are copied from an object store first.

    Args:
        saved: the checkpoint that is tested.
        index: of the shards.
        pictures: those to read.
        sampler: of this rank.
        world: all ranks.
        workers: decoding processes of each rank; None for those of the run.
        what: name of the progress bar.

    Raises:
        UserError: a shard can't be read.
    """
    if shard_source(index.root).is_remote:
        with exit_if_lost(world):
            stage_shards(index, pictures.entries.shard.distinct, index.root, world)
    data, count = saved.config.data, sum(sampler.sizes())
    world.drain_collectives()
    corrupt = CorruptPictures(pictures, data.max_corrupt, [])
    world.set_activity("testing", saved.progress.iteration)
    with exit_if_lost(world), progress_bar(what, count, world) as advance:

        def read() -> Iterator[Batch]:
            for batch in load_batches(pictures, sampler, data.workers if workers is None else workers, world.device):
                yield batch
                corrupt.add_batches([batch])
                world.set_activity("testing", saved.progress.iteration)
                advance(batch.size)

        yield read()
    for line in corrupt.gather(world):
        if world.is_main:
            sys.stderr.write(f"warning: {line}\n")


@contextlib.contextmanager
def progress_bar(what: str, total: int, world: World) -> Generator[Callable[[int], None]]:
    """Show the steps done and the remaining time on a terminal; yields a function to call with their number."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not (world.is_main and console.is_terminal)
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
