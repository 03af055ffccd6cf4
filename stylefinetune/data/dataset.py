"""Reads the pictures of a split from its shards, by their positions in the run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shards.format import ShardsError
from shards.format.index import Entries, ShardIndex
from shards.format.order import ClassBalance, DataOrder, ShuffleWindow
from stylefinetune.config.data import DataConfig, PhaseConfig
from stylefinetune.data.augmentation.fit import build_fit
from stylefinetune.data.mixing.mix import Mix
from stylefinetune.data.picture_reader import PictureReader
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.data.staging.index_copy import shards_folder
from stylefinetune.data.staging.source import shard_source
from stylefinetune.data.transforms import Crops
from stylefinetune.errors import UserError, joined_sizes


@dataclasses.dataclass(frozen=True)
class Batch:
    """One rank's slice of a batch: b pictures, possibly 0."""

    pictures: torch.Tensor  # uint8[b, H, W, 3], RGB
    labels: torch.Tensor  # int64[b]
    crops: Crops
    positions: torch.Tensor  # int64[b], the position of each picture in the run
    size: int  # number of pictures of the whole batch, over all ranks
    corrupt: tuple[int, ...] = ()  # rows that can't be decoded; a black picture with CORRUPT_LABEL replaces each
    mix: Mix | None = None  # how the pictures are mixed; then the first picture is only the partner of the second
    weight: float | None = None  # sum of train.class_weights over the whole batch, if they are set
    # int64[2, n], the row and the class of each label of pictures with several; None if each has the one in `labels`.
    pairs: torch.Tensor | None = None


class BatchColumns(NamedTuple):
    """What belongs to the pictures of a batch, apart from the pixels."""

    numbers: bytes  # of int64[5, b]: position, label, top, left, and 1 if mirrored; an array is slower to unpickle
    corrupt: tuple[int, ...]  # as in Batch

    def with_pictures(self, pictures: torch.Tensor, size: int, crop_size: tuple[int, int]) -> Batch:
        """Return the batch on the device of the pictures, except the positions; it has `size` pictures on all ranks."""
        numbers = torch.from_numpy(np.frombuffer(bytearray(self.numbers), np.int64).reshape(5, len(pictures)))
        _, labels, top, left, mirror = numbers.to(pictures.device, non_blocking=True)
        return Batch(pictures, labels, Crops(top, left, mirror.bool(), crop_size), numbers[0], size, self.corrupt)


class PictureDataset:
    """The pictures of a split, read by position.

    Args:
        entries: the index entries of the split.
        phase: how pictures are cropped, mirrored and shuffled.
        seed: seed of crops, mirrors and shuffles.
        folder: folder of a copy of the shards to read from; messages still name the original.

    Raises:
        UserError: pictures are not resized and differ in size, or are smaller than the crop.
    """

    def __init__(self, entries: Entries, phase: PhaseConfig, seed: int, folder: Path | None = None) -> None:
        self.entries = entries
        self._folder = folder
        self.phase = phase
        window = None
        if phase.shuffle_window:
            window = ShuffleWindow.from_index(phase.shuffle_window, entries.shard.codes, entries.offset)
        elif phase.balanced:
            window = ClassBalance.from_labels(entries.label)
        self.order = DataOrder(len(entries), phase.shuffle, seed, window)
        fit = build_fit(phase, seed)
        self.size = fit.size if fit else phase.image_size or _stored_size(entries)
        if phase.crop_size > min(self.size):
            stored = joined_sizes(self.size)
            raise UserError(f"{entries.root} holds pictures of {stored}, smaller than the crop of {phase.crop_size}")
        self.input_size = phase.input_size(self.size)
        self.is_fixed = fit is None or fit.is_fixed
        self._reader = PictureReader(entries, self.size, folder, fit)

    def read(
        self, positions: Sequence[int], rows: npt.NDArray[np.int64], pictures: npt.NDArray[np.uint8]
    ) -> BatchColumns:
        """Read the pictures at `positions`, those of `rows`, into `pictures`, uint8[b, H, W, 3].

        Raises:
            UserError: a shard can't be read, or stored pixels have another size.
        """
        corrupt = self._reader.read(rows, pictures, positions)
        numbers = np.empty((5, len(rows)), np.int64)
        numbers[0] = positions
        numbers[1] = self.entries.label[rows]
        numbers[1, corrupt] = CORRUPT_LABEL
        numbers[2:] = self.draw_crops(positions)
        return BatchColumns(numbers.tobytes(), tuple(rows[corrupt].tolist()))

    def location(self, row: int) -> str:
        """Return the shard and the key of a row's picture."""
        return self._reader.location(row)

    def in_list_order(self) -> "PictureDataset":
        """Return the same pictures, of which each is read once, in the order of the index."""
        phase = dataclasses.replace(
            self.phase, training=False, mirror=False, shuffle=False, shuffle_window=0, balanced=False
        )
        return PictureDataset(self.entries, phase, self.order.seed, self._folder)

    def draw_crops(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the top, left and mirror of each picture at `positions`, which are close together: int64[3, b]."""
        margins = [side - crop for side, crop in zip(self.size, self.input_size, strict=True)]
        crops = np.zeros((3, len(positions)), np.int64)
        if len(positions) and (self.phase.training or self.phase.mirror):
            place = np.asarray(positions) - (first := int(np.min(positions)))
            top, left, mirror = self.order.random_values(first, int(place.max()) + 1)[:, place]
            crops[2] = mirror % np.uint64(2) if self.phase.mirror else 0
            if self.phase.training:
                crops[0] = top % np.uint64(margins[0] + 1)
                crops[1] = left % np.uint64(margins[1] + 1)
        if not self.phase.training:
            crops[0], crops[1] = margins[0] // 2, margins[1] // 2
        return crops


def _stored_size(entries: Entries) -> tuple[int, int]:
    """Return the common (height, width) of all pictures."""
    size = (int(entries.height[0]), int(entries.width[0]))
    others = np.flatnonzero((entries.height != size[0]) | (entries.width != size[1]))
    if len(others):
        row = int(others[0])
        raise UserError(
            f"{entries.root}: {entries.key[row]} is {entries.height[row]}x{entries.width[row]}, {entries.key[0]} "
            f"{size[0]}x{size[1]}; set data.image_size to resize them to one size"
        )
    return size


def open_index(config: DataConfig) -> ShardIndex:
    """Load the index of `config.shards`; if that is an object store, from a local copy.

    Raises:
        UserError: it is missing or can't be read.
    """
    try:
        return ShardIndex.load(shards_folder(config))
    except ShardsError as error:
        raise UserError(f"data.shards: {error}") from error


def open_split(index: ShardIndex, split: str, flag: str = "--data.split") -> Entries:
    """Return the entries of `split`, which `flag` chooses, after checking labels and shards.

    Raises:
        UserError: the split is empty, a label has no class, or a shard is missing or too short.
    """
    entries = index.entries(split)
    if len(entries) == 0:
        if not index.splits:
            raise UserError(f"{index.root} has no pictures; this shows why: shards report {index.root}")
        without = ", or '' to train without tests" if flag == "--data.test.split" else ""
        raise UserError(
            f"{index.root} has no pictures of split {split!r}; it has {', '.join(index.splits)}: "
            f"choose one with {flag}{without}"
        )
    classes = len(index.metadata.classes)
    outside = np.flatnonzero((entries.label < 0) | (entries.label >= classes))
    if len(outside):
        row = int(outside[0])
        raise UserError(
            f"{index.root}: {entries.key[row]} has label {entries.label[row]}, outside the {classes} classes; "
            "fix the list and assemble it again"
        )
    source = shard_source(index.root)
    for shard, end in zip(entries.shard.distinct, entries.shard_ends().tolist(), strict=True):
        version = source.version(shard)
        if version is None or version[0] < end:
            state = "is shorter than the index says" if version else "is missing"
            raise UserError(f"{source.name(shard)} {state}; restore it, or assemble again into {source.name('')}")
    return entries
