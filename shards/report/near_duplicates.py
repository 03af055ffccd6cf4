"""Near-duplicates: pictures that are one picture, resized or encoded anew, found by a perceptual hash."""

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

# pHash with 16 x 16 of the lowest frequencies. Of 100 pictures with the spectrum of photos, copies at JPEG quality 20,
# of a third of the size, in grey or with another gamma lay within 14 bits, cuts of 1 % a side within 32, and no two
# different ones within 94.
_SIDE = 16
BITS = _SIDE * _SIDE
NEAR_DUPLICATE_BITS = 24  # bits that may differ
_LEAST_TEXTURE = 2.0  # grey levels of standard deviation: all flat pictures look the same to a hash
_BATCH = 256  # rows of a product of bits at a time: 64 MB of sums at 64,000 pictures

Bits = npt.NDArray[np.float32]
"""float32[N, BITS]: 1 and -1; all 0 for a picture without texture, which is near to none."""


def hash_pictures(root: Path, members: list[TarMember]) -> Bits:
    """Hashes pictures of DIR, on all cores.

    Raises:
        ShardsError: a picture can't be read.
    """
    bits = np.zeros((len(members), BITS), np.float32)

    def hash_run(places: list[int]) -> None:
        run = [members[place] for place in places]
        for place, pixels in zip(places, read_pictures(root, run), strict=True):
            bits[place] = hash_picture(pixels)

    runs = [list(run) for _, run in itertools.groupby(range(len(members)), key=lambda place: members[place].shard)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV works outside Python's lock
        for _ in pool.map(hash_run, runs):
            pass
    return bits


def hash_picture(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Returns one row of `Bits`."""
    # Shrunk with antialiasing here, four times as fast as imagehash's own way to the size that it wants.
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (4 * _SIDE, 4 * _SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < _LEAST_TEXTURE:
        return np.zeros(BITS, np.float32)
    found = imagehash.phash(Image.fromarray(small), hash_size=_SIDE)
    return np.where(found.hash.ravel(), np.float32(1), np.float32(-1))


def nearest(queries: Bits, others: Bits) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Finds for each query the first of the others that is nearest to it.

    Returns:
        int64[N] places in `others`, and int64[N] by how many bits they differ, BITS where there is none.
    """
    places = np.zeros(len(queries), np.int64)
    distances = np.full(len(queries), BITS, np.int64)
    if not len(others):
        return places, distances
    for start in range(0, len(queries), _BATCH):
        batch = queries[start : start + _BATCH]
        products = batch @ others.T  # equal bits less different ones: exact, being whole numbers
        best = products.argmax(axis=1)
        most = products[np.arange(len(batch)), best].astype(np.int64)
        places[start : start + _BATCH] = best
        # A row without texture has the product 0 with all.
        distances[start : start + _BATCH] = np.where(batch.any(axis=1), (BITS - most) // 2, BITS)
    return places, distances
