"""Compute the mean picture of a split of a DIR, normally train, which training subtracts from every picture."""

import concurrent.futures
import io
import itertools
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from shards.config.schema import MAX_IMAGE_SIZE
from shards.errors import ShardsError
from shards.files import write_file
from shards.format.images import resize_picture
from shards.format.index import ShardIndex
from shards.format.tar import TarMember, members_of, read_pictures

MEAN_FILE = "mean.npy"
TRAIN = "train"
_DEFAULT_SIZE = 256


def write_mean(root: Path, image_size: int | None, split: str = TRAIN) -> tuple[Path, int]:
    """Write DIR/mean.npy, float32[image_size, image_size, 3] RGB, and return its path and the number of pictures.

    Without `image_size` it is that of the stored pictures, or 256 if originals are stored.

    Raises:
        ShardsError: the split has no pictures, or one of them doesn't decode.
    """
    shard_index = ShardIndex.load(root)
    size = shard_index.metadata.image_size or _DEFAULT_SIZE if image_size is None else image_size
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise ShardsError(f"image_size is {size}; it must be at least 1 and at most {MAX_IMAGE_SIZE}")
    pictures = members_of(shard_index.table.filter(pc.field("split") == split))
    if not pictures:
        splits = ", ".join(shard_index.splits)
        remedy = f"it has {splits}: choose one with --split" if splits else f"python -m shards report {root} shows why"
        raise ShardsError(f"{root} has no pictures in the split {split}; {remedy}")
    file, path = io.BytesIO(), root / MEAN_FILE
    np.save(file, _compute_mean(root, pictures, size))
    write_file(path, file.getvalue())
    return path, len(pictures)


def _compute_mean(root: Path, pictures: list[TarMember], size: int) -> npt.NDArray[np.float32]:
    """Return the mean, float32[size, size, 3] RGB, of pictures decoded and resized as for training.

    The sum is one of integers, so it does not depend on the order of the threads.
    """
    total = np.zeros((size, size, 3), np.int64)

    def add_up(shard: list[TarMember]) -> npt.NDArray[np.int64]:
        part = np.zeros_like(total)
        for pixels in read_pictures(root, shard):
            part += pixels if pixels.shape == part.shape else resize_picture(pixels, size)
        return part

    shards = [list(run) for _, run in itertools.groupby(pictures, lambda picture: picture.shard)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the GIL
        for part in pool.map(add_up, shards):
            total += part
    return (total / len(pictures)).astype(np.float32)
