"""Near-duplicates: copies of a picture that were resized or encoded again, found with a perceptual hash."""

import concurrent.futures
import itertools
import os
from pathlib import Path

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.format.images import Pixels
from shards.format.tar import TarMember, read_pictures

# pHash with the 16 x 16 lowest frequencies. Measured with 100 pictures that have the spectrum of photos: copies at JPEG
# quality 20, at a third of the size, in grey or with another gamma differ in 14 bits or fewer, copies cropped by 1 % on
# each side in 32 or fewer, and different pictures in more than 94.
_SIDE = 16
BITS = _SIDE * _SIDE
NEAR_DUPLICATE_BITS = 24  # bits that may differ
_MIN_TEXTURE = 2.0  # standard deviation in grey levels; pictures with less have meaningless hashes
_BATCH = 256  # queries per matrix product: 64 MB of results for 64,000 pictures

Bits = npt.NDArray[np.float32]
"""float32[N, BITS]: 1 and -1; all 0 for a picture without texture, which is no near-duplicate of any."""


def hash_pictures(root: Path, members: list[TarMember]) -> Bits:
    """Hash pictures of DIR on all cores.

    Raises:
        ShardsError: a picture can't be read.
    """
    bits = np.zeros((len(members), BITS), np.float32)

    def hash_shard(positions: list[int]) -> None:
        pictures = read_pictures(root, [members[position] for position in positions])
        for position, pixels in zip(positions, pictures, strict=True):
            bits[position] = hash_picture(pixels)

    by_shard = itertools.groupby(range(len(members)), key=lambda position: members[position].shard)
    shards = [list(positions) for _, positions in by_shard]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the GIL
        list(pool.map(hash_shard, shards))
    return bits


def hash_picture(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return one row of `Bits`."""
    # OpenCV resizes with antialiasing, four times as fast as imagehash would.
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (4 * _SIDE, 4 * _SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < _MIN_TEXTURE:
        return np.zeros(BITS, np.float32)
    found = imagehash.phash(Image.fromarray(small), hash_size=_SIDE)
    return np.where(found.hash.ravel(), np.float32(1), np.float32(-1))


def nearest(queries: Bits, others: Bits) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the nearest of the others for each query; the first one of several.

    Returns:
        int64[N], positions in `others`; and int64[N], the number of bits that differ, BITS if there are no others.
    """
    positions = np.zeros(len(queries), np.int64)
    distances = np.full(len(queries), BITS, np.int64)
    if not len(others):
        return positions, distances
    for start in range(0, len(queries), _BATCH):
        batch = queries[start : start + _BATCH]
        products = batch @ others.T  # the number of equal bits minus that of different ones, exact
        best = products.argmax(axis=1)
        largest = products[np.arange(len(batch)), best].astype(np.int64)
        positions[start : start + _BATCH] = best
        # The products of a picture without texture are 0.
        distances[start : start + _BATCH] = np.where(batch.any(axis=1), (BITS - largest) // 2, BITS)
    return positions, distances
