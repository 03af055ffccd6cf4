"""Reads real pictures for the check of an exported network: given files, or some of the run's test set."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from shards.format.images import Pixels, resize_picture
from shards.format.index import Entries
from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.data.augmentation.fit import build_fit
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.staging.source import shard_source
from stylefinetune.data.transforms import Crops
from stylefinetune.errors import UserError
from stylefinetune.prediction.pictures import PictureFile, UnreadablePicture

COUNT = 8  # pictures of the test set
_REMEDY = "name some pictures to check the export with: --pictures FILE ..."


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures as uint8 [B, H, W, 3], RGB, with the crop that is the network's input."""

    pixels: torch.Tensor
    crops: Crops

    @property
    def cropped(self) -> torch.Tensor:
        """The crops as float32 [B, 3, h, w], RGB, from 0 to 255."""
        (height, width), top, left = self.crops.size, int(self.crops.top[0]), int(self.crops.left[0])
        crops = self.pixels[:, top : top + height, left : left + width]
        return crops.permute(0, 3, 1, 2).float().contiguous()

    def __len__(self) -> int:
        return len(self.pixels)


def read_pictures(saved: Checkpoint, files: list[Path]) -> Pictures:
    """Read the files; without any, pictures from all over the test split of the run.

    Raises:
        UserError: they can't be read.
    """
    pixels = np.stack([_read(path, saved) for path in files]) if files else _of_test_set(saved)
    margins = [
        (side - crop) // 2 for side, crop in zip(saved.progress.picture_size, saved.progress.input_size, strict=True)
    ]
    top, left = (torch.full((len(pixels),), margin) for margin in margins)
    height, width = saved.progress.input_size
    crops = Crops(top, left, torch.zeros(len(pixels), dtype=torch.bool), (height, width))
    return Pictures(torch.from_numpy(pixels), crops)


def _read(path: Path, saved: Checkpoint) -> Pixels:
    try:
        pixels = PictureFile(str(path)).read()
    except UnreadablePicture as error:
        raise UserError(f"--pictures: {path} {error}") from error
    height, width = saved.progress.picture_size
    fit = build_fit(saved.config.data.phase(training=False), saved.progress.seed)
    if fit is None:
        return resize_picture(pixels, height, width)
    fitted = np.empty((height, width, 3), np.uint8)
    fit(pixels, 0, fitted)
    return fitted


def _of_test_set(saved: Checkpoint) -> Pixels:
    phase = saved.config.data.phase(training=False)
    try:
        entries = _open_test_set(saved)
        dataset = PictureDataset(entries, phase, saved.progress.seed)
        rows = np.unique(np.linspace(0, len(entries) - 1, COUNT).astype(np.int64))
        pixels = np.empty((len(rows), *dataset.size, 3), np.uint8)
        corrupt = dataset.read(rows.tolist(), rows, pixels).corrupt
    except UserError as error:
        raise UserError(f"{error}; {_REMEDY}") from error
    readable = pixels[~np.isin(rows, corrupt)]
    if not len(readable):
        raise UserError(f"no picture of {saved.config.data.shards}, split {phase.split}, can be decoded; {_REMEDY}")
    return readable


def _open_test_set(saved: Checkpoint) -> Entries:
    index = open_index(saved.config.data)
    if shard_source(index.root).is_remote:
        raise UserError(f"{saved.config.data.shards} is in an object store")
    return open_split(index, saved.config.data.phase(training=False).split)
