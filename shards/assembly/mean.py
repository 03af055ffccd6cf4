"""The mean picture of a DIR's train split, which training subtracts from every picture."""

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
    """Writes DIR/mean.npy, float32[H, W, 3] RGB, and returns its path and how many pictures it is the mean of.

    Args:
        root: DIR.
        image_size: side in pixels; None for that of the stored pictures, or 256 where originals are stored.

    Raises:
        ShardsError: DIR has no train pictures, or one of them doesn't decode.
    """
    shard_index = ShardIndex.load(root)
    size = shard_index.metadata.image_size or _DEFAULT_SIZE if image_size is None else image_size
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise ShardsError(f"image_size is {size}; it must be at least 1 and at most {MAX_IMAGE_SIZE}")
    entries = shard_index.entries(_SPLIT)
    if not len(entries):
        raise ShardsError(f"{root} has no pictures in the split {_SPLIT}, so they have no mean")
    draft, path = root / f".{MEAN_FILE}.{os.getpid()}", root / MEAN_FILE
    try:
        with draft.open("wb") as file:
            np.save(file, compute_mean(entries, size))
        publish_file(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path, len(entries)


def compute_mean(entries: Entries, size: int) -> npt.NDArray[np.float32]:
    """Returns the mean, float32[size, size, 3] RGB, of pictures decoded and resized as for training.

    The sum is one of integers, so it is the same in whatever order threads come to it.

    Raises:
        ShardsError: a picture doesn't decode, or its shard can't be read.
    """
    places: dict[str, list[int]] = {}
    for place, shard in enumerate(entries.shard):
        places.setdefault(shard, []).append(place)
    total = np.zeros((size, size, 3), np.int64)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV works outside Python's lock
        for part in pool.map(lambda inside: _sum(entries, inside, size), places.values()):
            total += part
    return (total / len(entries)).astype(np.float32)


def _sum(entries: Entries, places: list[int], size: int) -> npt.NDArray[np.int64]:
    """Returns the sum of the pictures at `places`, which are all of one shard."""
    total = np.zeros((size, size, 3), np.int64)
    path = entries.root / entries.shard[places[0]]
    try:
        with path.open("rb") as tar:
            for place in places:
                tar.seek(entries.offset[place])
                pixels = read_member(tar.read(entries.length[place]), entries.format[place])
                total += pixels if pixels.shape == total.shape else resize_picture(pixels, size)
    except BadPicture as error:
        raise ShardsError(f"{path}: a picture in it {error}; assemble into another folder") from error
    except OSError as error:
        raise ShardsError(f"{path}: {error.strerror}; the index names it") from error
    return total
