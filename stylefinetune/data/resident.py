"""Keeps all pictures of a split in the memory of the device, so that an iteration copies nothing to it.

They are decoded once, and stored as uint8: 196,608 bytes for 256x256 pixels, 15.7 GB for 80,000 pictures.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from shards.format.order import RankBatchSampler
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.data.transforms import Crops

_READ_TOGETHER = 64  # pictures that are decoded at a time
_TABLE = 1000  # batches whose rows, labels and crops are computed and copied to the device at a time


class ResidentLoader:
    """Gives batches like `BatchLoader`, of pictures that are in the memory of a device.

    `pictures` of each batch are those of the whole split, and `crops.rows` are the rows of the batch.
    """

    def __init__(self, dataset: PictureDataset, device: torch.device) -> None:
        self._dataset = dataset
        self.pictures = torch.empty(len(dataset.entries), *dataset.size, 3, dtype=torch.uint8, device=device)
        self._corrupt = np.zeros(len(dataset.entries), np.bool_)

    def fill(self, workers: int) -> Iterator[int]:
        """Decode all pictures in `workers` processes; yield the number of those that are complete.

        The errors are those of `load_batches`.
        """
        count = len(self.pictures)
        everything = RankBatchSampler(0, count, _READ_TOGETHER, rank=0, world_size=1)
        for batch in load_batches(self._dataset.in_list_order(), everything, workers, self.pictures.device):
            first = int(batch.positions[0])
            self.pictures[first : first + batch.size].copy_(batch.pictures)
            self._corrupt[list(batch.corrupt)] = True
            yield first + batch.size

    def load(self, sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return an iterator over this rank's slices of the batches, in order."""
        batches = zip(sampler, sampler.sizes(), strict=True)
        while following := list(itertools.islice(batches, _TABLE)):
            yield from self._load_table([positions for positions, _ in following], [size for _, size in following])

    def _load_table(self, slices: Sequence[Sequence[int]], sizes: Sequence[int]) -> Iterator[Batch]:
        """Yield one batch for each slice of positions."""
        positions = np.concatenate([np.array(each, np.int64) for each in slices])
        rows = self._dataset.order.rows_at(positions)
        table = torch.from_numpy(np.stack([rows, self._labels(rows), *self._dataset.draw_crops(positions)]))
        row, label, top, left, mirror = table.to(self.pictures.device)
        mirrored = mirror.bool()
        stops = np.cumsum([len(each) for each in slices]).tolist()
        for start, stop, size in zip([0, *stops], stops, sizes, strict=False):
            part = slice(start, stop)
            crops = Crops(top[part], left[part], mirrored[part], self._dataset.input_size, row[part])
            corrupt = rows[part][self._corrupt[rows[part]]]
            own = torch.from_numpy(positions[part])
            yield Batch(self.pictures, label[part], crops, own, size, tuple(corrupt.tolist()))

    def _labels(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.where(self._corrupt[rows], CORRUPT_LABEL, self._dataset.entries.label[rows])


def resident_bytes(dataset: PictureDataset) -> int:
    """Return the memory that a ResidentLoader of these pictures needs."""
    height, width = dataset.size
    return len(dataset.entries) * height * width * 3
