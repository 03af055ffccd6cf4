"""Decodes the pictures of a split once, and keeps them in the memory of a device.

They are stored as uint8: 196,608 bytes for 256x256 pixels, 15.7 GB for 80,000 pictures.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from shards.format.order import RankBatchSampler
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import CORRUPT_LABEL

READ_TOGETHER = 64  # pictures that are decoded at a time


class ResidentPictures:
    """The pictures of some consecutive rows of a dataset.

    Attributes:
        dataset: the dataset.
        rows: the rows.
        pixels: the pictures in the order of the rows, uint8[len(rows), H, W, 3], RGB.
        corrupt: which pictures of the dataset can't be decoded, as far as that is known: bool[N].
    """

    def __init__(self, dataset: PictureDataset, rows: slice, device: torch.device) -> None:
        self.dataset = dataset
        self.rows = range(len(dataset.entries))[rows]
        self.pixels = torch.empty(len(self.rows), *dataset.size, 3, dtype=torch.uint8, device=device)
        self.corrupt = np.zeros(len(dataset.entries), np.bool_)

    def fill(self, workers: int) -> Iterator[int]:
        """Decode the pictures in `workers` processes; yield the number of those that are complete.

        The errors are those of `load_batches`.
        """
        sampler = RankBatchSampler(self.rows.start, self.rows.stop, READ_TOGETHER, rank=0, world_size=1)
        done = 0
        for batch in load_batches(self.dataset.in_list_order(), sampler, workers, self.pixels.device):
            self.pixels[done : done + batch.size].copy_(batch.pictures)
            self.corrupt[list(batch.corrupt)] = True
            done += batch.size
            yield done

    def labels(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the label of each row; that of a corrupt picture is CORRUPT_LABEL."""
        return np.where(self.corrupt[rows], CORRUPT_LABEL, self.dataset.entries.label[rows])

    def corrupt_of(self, rows: npt.NDArray[np.int64]) -> tuple[int, ...]:
        """Return those of the rows whose picture is corrupt."""
        return tuple(rows[self.corrupt[rows]].tolist())


def resident_bytes(dataset: PictureDataset, pictures: int) -> int:
    """Return the memory in bytes that a number of these pictures needs."""
    height, width = dataset.size
    return pictures * height * width * 3
