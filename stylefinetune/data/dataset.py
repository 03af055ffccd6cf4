"""Reads the pictures of a split from its shards, by their positions in the run."""

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from shards.format import ShardsError
from shards.format.images import BadPicture, Pixels, read_member, resize_picture
from shards.format.index import Entries, ShardIndex
from stylefinetune.config.data import DataConfig, PhaseConfig
from stylefinetune.data.sampler import CORRUPT_LABEL, DataOrder, ShuffleWindow
from stylefinetune.data.transforms import Crops
from stylefinetune.errors import DataError, UserError

MAX_OPEN_SHARDS = 128


@dataclasses.dataclass(frozen=True)
class Batch:
    """One rank's slice of a batch: b pictures, possibly 0."""

    pictures: torch.Tensor  # uint8[b, H, W, 3], RGB
    labels: torch.Tensor  # int64[b]
    crops: Crops
    positions: torch.Tensor  # int64[b], the position of each picture in the run
    size: int  # number of pictures of the whole batch, over all ranks
    corrupt: tuple[int, ...] = ()  # rows that can't be decoded; a black picture with CORRUPT_LABEL replaces each

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory; DataLoader calls this if there is a GPU."""
        return dataclasses.replace(
            self,
            pictures=self.pictures.pin_memory(),
            labels=self.labels.pin_memory(),
            crops=self.crops.pin_memory(),
        )


class PictureDataset(Dataset[Batch]):
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
        self._folder = folder or entries.root
        self.phase = phase
        window = None
        if phase.shuffle_window:
            window = ShuffleWindow.from_index(phase.shuffle_window, entries.shard.codes, entries.offset)
        self.order = DataOrder(len(entries), phase.shuffle, seed, window)
        self.size = phase.image_size or _stored_size(entries)
        if phase.crop_size > min(self.size):
            stored = "x".join(map(str, self.size))
            raise UserError(f"{entries.root} holds pictures of {stored}, smaller than the crop of {phase.crop_size}")
        self.input_size = phase.input_size(self.size)
        self._files: dict[str, int] = {}

    def __getitems__(self, positions: list[int]) -> Batch | UserError:
        """Return the pictures at `positions`, or the error: raised in a worker, it would be wrapped in a traceback."""
        rows = [self.order.row(position) for position in positions]
        labels = self.entries.label[rows].astype(np.int64)
        pictures = np.zeros((len(rows), *self.size, 3), np.uint8)
        corrupt: list[int] = []
        for index, row in enumerate(rows):
            try:
                pictures[index] = self._read_picture(row)
            except BadPicture:
                labels[index] = CORRUPT_LABEL
                corrupt.append(row)
            except UserError as error:
                return error
        return Batch(
            pictures=torch.from_numpy(pictures),
            labels=torch.from_numpy(labels),
            corrupt=tuple(corrupt),
            crops=self._draw_crops(positions),
            positions=torch.tensor(positions, dtype=torch.int64),
            size=0,
        )

    def location(self, row: int) -> str:
        """Return the shard and the key of a row's picture."""
        return f"{self.entries.root / self.entries.shard[row]}: {self.entries.key[row]}"

    def _read_picture(self, row: int) -> Pixels:
        entries, where = self.entries, self.location(row)
        try:
            pixels = read_member(self._read_bytes(row), entries.format[row])
        except OSError as error:
            copy = "" if self._folder == entries.root else f" from its copy in {self._folder}"
            raise DataError(f"{where} can't be read{copy} ({error.strerror}); check that the shard exists") from error
        if pixels.shape[:2] == self.size:
            return pixels
        if entries.format[row] == "npy":
            height, width, _ = pixels.shape
            raise UserError(f"{where} is stored as {height}x{width} pixels; set data.image_size to that")
        return resize_picture(pixels, *self.size)

    def _read_bytes(self, row: int) -> bytes:
        length = int(self.entries.length[row])
        content = os.pread(self._open_shard(self.entries.shard[row]), length, int(self.entries.offset[row]))
        if len(content) < length:  # the shard is damaged, not this picture alone
            raise OSError(errno.ENODATA, "the shard has become shorter than the index says")
        return content

    def _open_shard(self, shard: str) -> int:
        if shard not in self._files:
            if len(self._files) >= MAX_OPEN_SHARDS:
                for descriptor in self._files.values():
                    os.close(descriptor)
                self._files.clear()
            self._files[shard] = os.open(self._folder / shard, os.O_RDONLY)
        return self._files[shard]

    def _draw_crops(self, positions: list[int]) -> Crops:
        margins = [side - crop for side, crop in zip(self.size, self.input_size, strict=True)]
        if self.phase.training or self.phase.mirror:
            values = [self.order.random_values(position) for position in positions]
        else:
            values = [(0, 0, 0)] * len(positions)
        if self.phase.training:
            tops, lefts = ([value[axis] % (margins[axis] + 1) for value in values] for axis in (0, 1))
        else:
            tops, lefts = ([margins[axis] // 2] * len(positions) for axis in (0, 1))
        return Crops(
            top=torch.tensor(tops, dtype=torch.int64),
            left=torch.tensor(lefts, dtype=torch.int64),
            mirror=torch.tensor([self.phase.mirror and mirror % 2 == 1 for _, _, mirror in values], dtype=torch.bool),
            size=self.input_size,
        )


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
    """Load the index of `config.shards`.

    Raises:
        UserError: it is missing or can't be read.
    """
    try:
        return ShardIndex.load(Path(config.shards))
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
            raise UserError(f"{index.root} has no pictures; this shows why: python -m shards report {index.root}")
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
    for shard, end in zip(entries.shard.distinct, entries.shard_ends().tolist(), strict=True):
        path = index.root / shard
        if not path.is_file() or path.stat().st_size < end:
            state = "is shorter than the index says" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}; restore it, or assemble again into {index.root}")
    return entries
