"""The pictures of a split as a map-style dataset for training loops of any kind, and the batches that they read."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.errors import ShardsError
from shards.format.images import BadPicture, read_member
from shards.format.index import Entries, ShardIndex
from shards.format.order import DataOrder, RankBatchSampler

Transform = Callable[[Image.Image], Any]


class ShardDataset:
    """The pictures of one split, in list order.

    PyTorch's DataLoader, Lightning and the Trainer of transformers take it as a dataset. Items are pairs of a picture,
    RGB, and its label: an int, or for pictures with several labels float32[classes] of 0 and 1.

    Attributes:
        classes: class names in label order.
        labels: the label of each picture, the first one if it has several, [N].
        transform: what is done to each picture before it is returned, for example by torchvision.
    """

    def __init__(self, index: ShardIndex, split: str, transform: Transform | None = None) -> None:
        self.classes = index.metadata.classes
        self.transform = transform
        self._entries: Entries = index.entries(split)
        if not len(self._entries):
            raise ShardsError(
                f"{index.root} has no pictures of split {split!r}; it has {', '.join(index.splits) or 'none'}"
            )
        self.labels: npt.NDArray[np.int64] = self._entries.label.astype(np.int64)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        """Return the picture and the label of a row.

        Raises:
            IndexError: there is no such row.
            ShardsError: the picture can't be read.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        entries = self._entries
        try:
            with (entries.root / entries.shard[row]).open("rb") as shard:  # each time, so that processes share nothing
                shard.seek(int(entries.offset[row]))
                body = shard.read(int(entries.length[row]))
            picture = Image.fromarray(read_member(body, entries.format[row]))
        except (OSError, BadPicture) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            place = f"{entries.root / entries.shard[row]}: {entries.key[row]}"
            raise ShardsError(
                f"{place} can't be read ({reason}); check the shards with: shards verify {entries.root}"
            ) from error
        return picture if self.transform is None else self.transform(picture), self._target(row)

    def _target(self, row: int) -> Any:  # noqa: ANN401 -- see the class
        if self._entries.labels is None:
            return int(self.labels[row])
        targets = np.zeros(len(self.classes), np.float32)
        targets[self._entries.labels[row]] = 1
        return targets

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        stop: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> "Batches":
        """Return the batches `start` to `stop`, as a DataLoader's `batch_sampler`.

        Which pictures a batch has is a function of its number and the seed alone. So a run that starts again at batch n
        reads what it would have read, and any number of ranks together read what one would. Batches continue across the
        end of an epoch; each epoch has another order.

        Args:
            batch_size: pictures of a batch, over all ranks; at least one for each.
            seed: of the order.
            start: number of the first batch.
            stop: number after the last batch.
            shuffle: False reads in list order.
            rank: this process's rank; its slice of each batch has a part of the pictures.
            world_size: the number of ranks.
        """
        if not (0 <= start <= stop and 0 <= rank < world_size <= batch_size):
            raise ValueError(f"no batches for each rank: {batch_size=}, {start=}, {stop=}, {rank=}, {world_size=}")
        sampler = RankBatchSampler(start * batch_size, stop * batch_size, batch_size, rank, world_size)
        return Batches(DataOrder(len(self), shuffle, seed), sampler)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The rows of each batch that one rank reads."""

    order: DataOrder
    sampler: RankBatchSampler

    def __iter__(self) -> Iterator[list[int]]:
        for positions in self.sampler:
            yield self.order.rows_at(positions).tolist()

    def __len__(self) -> int:
        return len(self.sampler)
