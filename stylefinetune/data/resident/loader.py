"""Gives batches of pictures that are all in the memory of the rank's device, so that an iteration copies none."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from shards.format.order import RankBatchSampler
from stylefinetune.data.dataset import Batch
from stylefinetune.data.resident.pictures import ResidentPictures
from stylefinetune.data.transforms import Crops

_TABLE = 1000  # batches whose rows, labels and crops are computed and copied to the device at a time


class ResidentLoader:
    """Gives batches like `BatchLoader`.

    `pictures` of each batch are those of the whole split, and `crops.rows` are the rows of the batch.
    """

    def __init__(self, resident: ResidentPictures) -> None:
        self._resident = resident
        self._dataset = resident.dataset

    def load(self, sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return an iterator over this rank's slices of the batches, in order."""
        batches = zip(sampler, sampler.sizes(), strict=True)
        while following := list(itertools.islice(batches, _TABLE)):
            yield from self._load_table([positions for positions, _ in following], [size for _, size in following])

    def _load_table(self, slices: Sequence[Sequence[int]], sizes: Sequence[int]) -> Iterator[Batch]:
        """Yield one batch for each slice of positions."""
        pixels = self._resident.pixels
        positions = np.concatenate([np.array(each, np.int64) for each in slices])
        rows = self._dataset.order.rows_at(positions)
        table = torch.from_numpy(np.stack([rows, self._resident.labels(rows), *self._dataset.draw_crops(positions)]))
        row, label, top, left, mirror = table.to(pixels.device)
        mirrored = mirror.bool()
        stops = np.cumsum([len(each) for each in slices]).tolist()
        for start, stop, size in zip([0, *stops], stops, sizes, strict=False):
            part = slice(start, stop)
            crops = Crops(top[part], left[part], mirrored[part], self._dataset.input_size, row[part])
            own = torch.from_numpy(positions[part])
            yield Batch(pixels, label[part], crops, own, size, self._resident.corrupt_of(rows[part]))
