"""Computes the mean picture of a split of a DIR, normally train, which training subtracts from every picture."""

import io
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from rich.console import Console

from shards.config.schema import MAX_IMAGE_SIZE
from shards.errors import ShardsError
from shards.files import write_file
from shards.format.columns import Names
from shards.format.images import resize_picture
from shards.format.index import IndexFile
from shards.format.tar import TarMember, members_of, read_pictures
from shards.format.threads import map_in_threads
from shards.progress import track_progress

MEAN_FILE = "mean.npy"
TRAIN = "train"
_DEFAULT_SIZE = 256


def write_mean(
    root: Path, image_size: int | None, split: str = TRAIN, console: Console | None = None
) -> tuple[Path, int]:
    """Write DIR/mean.npy, float32[image_size, image_size, 3] RGB, and return its path and the number of pictures.

    `image_size` is by default the side of the stored pictures, or 256 if originals are stored. `console` gets the
    progress.

    Raises:
        ShardsError: the split has no pictures, or one of them doesn't decode.
    """
    index = IndexFile(root)
    size = index.metadata.image_size or _DEFAULT_SIZE if image_size is None else image_size
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise ShardsError(f"image_size is {size}; it must be at least 1 and at most {MAX_IMAGE_SIZE}")
    mean, count = _compute_mean(index, split, size, console)
    if not count:
        splits = ", ".join(Names.join(index.read_column("split")).distinct)
        remedy = f"it has {splits}: choose one with --split" if splits else f"shards report {root} shows why"
        raise ShardsError(f"{root} has no pictures in the split {split}; {remedy}")
    file, path = io.BytesIO(), root / MEAN_FILE
    np.save(file, mean)
    write_file(path, file.getvalue())
    return path, count


def _compute_mean(
    index: IndexFile, split: str, size: int, console: Console | None
) -> tuple[npt.NDArray[np.float32], int]:
    """Return the mean, float32[size, size, 3] RGB, of pictures decoded and resized as for training, and their number.

    The sum is one of integers, so it does not depend on the order of the threads.
    """
    total, count = np.zeros((size, size, 3), np.int64), 0

    def add_up(shard: list[TarMember]) -> tuple[npt.NDArray[np.int64], int]:
        part = np.zeros_like(total)
        for pixels in read_pictures(index.root, shard):
            part += pixels if pixels.shape == part.shape else resize_picture(pixels, size)
        return part, len(shard)

    chosen = (part.filter(pc.field("split") == split) for part in index.read_parts(["split", *TarMember._fields]))
    members = itertools.chain.from_iterable(map(members_of, chosen))
    shards = (list(run) for _, run in itertools.groupby(members, lambda member: member.shard))
    names = Names.join(index.read_column("split"))
    expected = int((names.codes == names.distinct.index(split)).sum()) if split in names.distinct else 0
    parts = map_in_threads(add_up, shards)  # OpenCV releases the GIL
    for part, pictures in track_progress(parts, expected, "pictures added up", console, lambda part: part[1]):
        total += part
        count += pictures
    return (total / max(count, 1)).astype(np.float32), count
