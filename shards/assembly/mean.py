"""Compute the mean picture of a DIR's train split, which training subtracts from every picture."""

import concurrent.futures
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.config.schema import MAX_IMAGE_SIZE
from shards.errors import ShardsError
from shards.files import publish_file
from shards.format.images import BadPicture, read_member, resize_picture
from shards.format.index import Entries, ShardIndex

MEAN_FILE = "mean.npy"
_SPLIT = "train"
_DEFAULT_SIZE = 256


def write_mean(root: Path, image_size: int | None) -> tuple[Path, int]:
    """Write DIR/mean.npy, float32[H, W, 3] RGB, and return its path and the number of pictures.

    Args:
        root: DIR.
        image_size: side in pixels; None for that of the stored pictures, or 256 if originals are stored.

    Raises:
        ShardsError: DIR has no train pictures, or one of them doesn't decode.
    """
    shard_index = ShardIndex.load(root)
    size = shard_index.metadata.image_size or _DEFAULT_SIZE if image_size is None else image_size
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise ShardsError(f"image_size is {size}; it must be at least 1 and at most {MAX_IMAGE_SIZE}")
    entries = shard_index.entries(_SPLIT)
    if not len(entries):
        raise ShardsError(f"{root} has no pictures in the split {_SPLIT}")
    draft, path = root / f".{MEAN_FILE}.{os.getpid()}", root / MEAN_FILE
    try:
        with draft.open("wb") as file:
            np.save(file, compute_mean(entries, size))
        publish_file(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path, len(entries)


def compute_mean(entries: Entries, size: int) -> npt.NDArray[np.float32]:
    """Return the mean, float32[size, size, 3] RGB, of pictures decoded and resized as for training.

    The sum is one of integers, so it does not depend on the order of the threads.

    Raises:
        ShardsError: a picture doesn't decode, or its shard can't be read.
    """
    by_shard: dict[str, list[int]] = {}
    for number, shard in enumerate(entries.shard):
        by_shard.setdefault(shard, []).append(number)
    total = np.zeros((size, size, 3), np.int64)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the GIL
        for part in pool.map(lambda numbers: _sum(entries, numbers, size), by_shard.values()):
            total += part
    return (total / len(entries)).astype(np.float32)


def _sum(entries: Entries, numbers: list[int], size: int) -> npt.NDArray[np.int64]:
    """Return the sum of pictures of one shard, given by their index in `entries`."""
    total = np.zeros((size, size, 3), np.int64)
    path = entries.root / entries.shard[numbers[0]]
    try:
        with path.open("rb") as tar:
            for number in numbers:
                tar.seek(entries.offset[number])
                pixels = read_member(tar.read(entries.length[number]), entries.format[number])
                total += pixels if pixels.shape == total.shape else resize_picture(pixels, size)
    except BadPicture as error:
        raise ShardsError(f"{path}: a picture in it {error}; assemble into another folder") from error
    except OSError as error:
        raise ShardsError(f"{path}: {error.strerror}; the index names it") from error
    return total
