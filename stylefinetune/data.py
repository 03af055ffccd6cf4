"""From the index to batches, read from the shards by position, and the mean picture that goes with them."""

import dataclasses
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from shards.images import BadPicture, Pixels, read_member, resize
from shards.index import Entries, ShardIndex, ShardsError
from stylefinetune.caffe_files import read_mean
from stylefinetune.data_config import DataConfig, PhaseConfig
from stylefinetune.decoding import signals_held, start_worker
from stylefinetune.errors import WORKER, DataError, UserError, ran_out_of_memory, worker_failed
from stylefinetune.order import CORRUPT_LABEL, Order, Slices, Window
from stylefinetune.pretrained import locate
from stylefinetune.transforms import Crops

MAX_OPEN_SHARDS = 128


@dataclasses.dataclass(frozen=True)
class Batch:
    """One rank's slice of a batch of b pictures; b may be 0.

    Attributes:
        pictures: uint8[b, H, W, 3], RGB.
        labels: int64[b].
        crops: where each is cut.
        positions: int64[b], each picture's n.
        size: pictures of the whole batch, over all ranks.
        corrupt: rows whose picture couldn't be decoded: a blank one of label CORRUPT_LABEL stands in its place.
    """

    pictures: torch.Tensor
    labels: torch.Tensor
    crops: Crops
    positions: torch.Tensor
    size: int
    corrupt: tuple[int, ...] = ()

    def pin_memory(self) -> "Batch":
        """Returns the batch in page-locked memory; DataLoader calls it where there is a GPU."""
        return dataclasses.replace(
            self,
            pictures=self.pictures.pin_memory(),
            labels=self.labels.pin_memory(),
            crops=self.crops.pin_memory(),
        )


class PictureSet(Dataset[Batch]):
    """The pictures of a split, read by position.

    Args:
        entries: where they lie.
        phase: how they are cut, mirrored and shuffled.
        seed: of crops, mirrors and shuffles.
        folder: of a copy of the shards to read; messages name the shards all the same.

    Raises:
        UserError: they are to be left as stored, and aren't of one size, or are smaller than the crop.
    """

    def __init__(self, entries: Entries, phase: PhaseConfig, seed: int, folder: Path | None = None) -> None:
        self.entries = entries
        self._folder = folder or entries.root
        self.phase = phase
        window = Window.of(phase.shuffle_window, entries.shard, entries.offset) if phase.shuffle_window else None
        self.order = Order(len(entries), phase.shuffle, seed, window)
        self.size = phase.image_size or _stored_size(entries)
        if phase.crop_size > min(self.size):
            stored = "x".join(map(str, self.size))
            raise UserError(f"{entries.root} holds pictures of {stored}, smaller than the crop of {phase.crop_size}")
        self.input_size = (phase.crop_size, phase.crop_size) if phase.crop_size else self.size
        self._files: dict[str, int] = {}

    def __getitems__(self, positions: list[int]) -> Batch | UserError:
        """Reads the pictures at `positions`; an error is returned, since a worker's traceback would bury it."""
        rows = [self.order.row(position) for position in positions]
        labels = self.entries.label[rows]
        stacked = np.zeros((len(rows), *self.size, 3), np.uint8)
        corrupt: list[int] = []
        for place, row in enumerate(rows):
            try:
                stacked[place] = self._picture(row)
            except BadPicture:
                labels[place] = CORRUPT_LABEL
                corrupt.append(row)
            except UserError as error:
                return error
        return Batch(
            pictures=torch.from_numpy(stacked),
            labels=torch.from_numpy(labels),
            corrupt=tuple(corrupt),
            crops=self._crops(positions),
            positions=torch.tensor(positions, dtype=torch.int64),
            size=0,
        )

    def name(self, row: int) -> str:
        """Returns where a row's picture lies: shard and key."""
        return f"{self.entries.root / self.entries.shard[row]}: {self.entries.key[row]}"

    def _picture(self, row: int) -> Pixels:
        entries, where = self.entries, self.name(row)
        try:
            pixels = read_member(self._body(row), entries.format[row])
        except OSError as error:
            copy = "" if self._folder == entries.root else f" from its copy in {self._folder}"
            raise DataError(f"{where} can't be read{copy} ({error.strerror}); is the shard still there?") from error
        if pixels.shape[:2] == self.size:
            return pixels
        if entries.format[row] == "npy":
            height, width, _ = pixels.shape
            raise UserError(f"{where} is stored as {height}x{width} pixels; set data.image_size to that")
        return resize(pixels, *self.size)

    def _body(self, row: int) -> bytes:
        length = int(self.entries.length[row])
        body = os.pread(self._file(self.entries.shard[row]), length, int(self.entries.offset[row]))
        if len(body) < length:  # which is no matter of this picture's
            raise OSError(errno.ENODATA, "the shard has become shorter than the index says")
        return body

    def _file(self, shard: str) -> int:
        descriptor = self._files.get(shard)
        if descriptor is None:
            if len(self._files) >= MAX_OPEN_SHARDS:
                for opened in self._files.values():
                    os.close(opened)
                self._files.clear()
            descriptor = self._files[shard] = os.open(self._folder / shard, os.O_RDONLY)
        return descriptor

    def _crops(self, positions: list[int]) -> Crops:
        slack = [side - cut for side, cut in zip(self.size, self.input_size, strict=True)]
        if self.phase.training or self.phase.mirror:
            draws = [self.order.draw(position) for position in positions]
        else:
            draws = [(0, 0, 0)] * len(positions)
        if self.phase.training:
            tops, lefts = ([draw[axis] % (slack[axis] + 1) for draw in draws] for axis in (0, 1))
        else:
            tops, lefts = ([slack[axis] // 2] * len(positions) for axis in (0, 1))
        return Crops(
            top=torch.tensor(tops, dtype=torch.int64),
            left=torch.tensor(lefts, dtype=torch.int64),
            mirror=torch.tensor([self.phase.mirror and mirror % 2 == 1 for _, _, mirror in draws], dtype=torch.bool),
            size=self.input_size,
        )


def _stored_size(entries: Entries) -> tuple[int, int]:
    """Returns the (height, width) that all pictures have."""
    size = (int(entries.height[0]), int(entries.width[0]))
    others = np.flatnonzero((entries.height != size[0]) | (entries.width != size[1]))
    if len(others):
        row = int(others[0])
        raise UserError(
            f"{entries.root}: {entries.key[row]} is {entries.height[row]}x{entries.width[row]}, {entries.key[0]} "
            f"{size[0]}x{size[1]}; set data.image_size to bring them to one size"
        )
    return size


def read_batches(pictures: PictureSet, slices: Slices, workers: int, device: torch.device) -> Iterator[Batch]:
    """Yields this rank's slice of each batch in order, decoded ahead by `workers` processes, which start at once.

    Raises:
        UserError: a shard can't be read, or a worker has failed.
    """
    loader = DataLoader(
        cast("Dataset[Batch | UserError]", pictures),
        batch_sampler=cast("Any", slices),  # any iterable of lists will do
        num_workers=workers,
        collate_fn=cast("Any", _share),  # __getitems__ has made the batch already
        worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
    )
    with signals_held():
        decoded = iter(loader)
    return _in_order(decoded, slices, workers)


def _in_order(decoded: Iterator[Batch | UserError], slices: Slices, workers: int) -> Iterator[Batch]:
    for size in slices.sizes():
        try:
            batch = next(decoded)
        except Exception as error:
            if workers == 0 or (ran_out_of_memory(error) and WORKER not in str(error)):
                raise  # it is this very process that has failed
            batch = DataError(worker_failed(error))
        if isinstance(batch, UserError):
            # PyTorch's handler complains of a dead worker at each signal to come, and breaks off its own tidying so.
            handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            del decoded
            signal.signal(signal.SIGCHLD, handler)
            raise batch
        yield dataclasses.replace(batch, size=size)


def _share(batch: Batch | UserError) -> Batch | UserError:
    """Puts a worker's batch where its rank sees it.

    PyTorch would do so later, in a thread whose errors get lost: where memory is short the batch would never come.
    """
    if get_worker_info() is not None and isinstance(batch, Batch):
        crops = batch.crops
        for tensor in (batch.pictures, batch.labels, batch.positions, crops.top, crops.left, crops.mirror):
            if tensor.numel():  # an empty one can't be shared, and needn't
                tensor.share_memory_()
    return batch


def open_index(config: DataConfig) -> ShardIndex:
    """Loads the index of `config.shards`.

    Raises:
        UserError: there is none, or it can't be read.
    """
    try:
        return ShardIndex.load(Path(config.shards))
    except ShardsError as error:
        raise UserError(f"data.shards: {error}") from error


def open_split(index: ShardIndex, split: str) -> Entries:
    """Returns the pictures of `split`, having seen that they can be trained on.

    Raises:
        UserError: the split is empty, a label has no class, or a shard is missing or too short.
    """
    entries = index.entries(split)
    if len(entries) == 0:
        there = ", ".join(index.splits) or "none"
        raise UserError(
            f"{index.root} holds no pictures of split {split!r} (there: {there}); assemble more of the list"
        )
    classes = len(index.metadata.classes)
    outside = np.flatnonzero((entries.label < 0) | (entries.label >= classes))
    if len(outside):
        row = int(outside[0])
        raise UserError(
            f"{index.root}: {entries.key[row]} has label {entries.label[row]}, outside the {classes} classes; "
            "mend the list and assemble it again"
        )
    ends: dict[str, int] = {}
    for shard, end in zip(entries.shard, (entries.offset + entries.length).tolist(), strict=True):
        ends[shard] = max(end, ends.get(shard, 0))
    for shard, end in ends.items():
        path = index.root / shard
        if not path.is_file() or path.stat().st_size < end:
            state = "is shorter than the index says" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}; restore it, or assemble again into {index.root}")
    return entries


def load_mean(config: DataConfig, phase: PhaseConfig, size: tuple[int, int]) -> torch.Tensor:
    """Returns what is subtracted from every picture: float32 [H, W, 3] or, for levels, [1, 1, 3]; RGB.

    Args:
        config: where the shards lie.
        phase: names the mean.
        size: (height, width) of the pictures before they are cut.

    Raises:
        UserError: the file is missing, unreadable or of another size than the pictures.
    """
    if phase.mean_value:
        levels = torch.tensor(phase.mean_value, dtype=torch.float32).expand(3)
        return levels.flip(0).reshape(1, 1, 3)
    path = locate(phase.mean_file) if phase.mean_file else Path(config.shards) / "mean.npy"
    if not path.is_file():
        remedy = "set data.mean_file" if phase.mean_file else f"make it with: python -m shards mean {config.shards}"
        raise UserError(f"{path}: no such mean picture; {remedy}, or set data.mean_value")
    if path.suffix == ".npy":
        try:
            mean = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        except (ValueError, EOFError, OSError, TypeError) as error:
            raise UserError(
                f"{path} can't be read as a mean picture; make it again with python -m shards mean"
            ) from error
    else:
        mean = torch.from_numpy(read_mean(path).copy()).permute(1, 2, 0).flip(-1)
    if tuple(mean.shape) != (*size, 3):
        found, wanted = ("x".join(map(str, sides)) for sides in (mean.shape, (*size, 3)))
        raise UserError(f"{path} is {found}; the pictures (data.image_size) are {wanted}")
    return mean.contiguous()
