"""Near-duplicates: copies of a picture that were resized or encoded again, found with a perceptual hash."""

import dataclasses
import itertools
from pathlib import Path

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console

from shards.format.images import Pixels
from shards.format.index import IndexFile
from shards.format.tar import TarMember, members_of, read_pictures
from shards.format.threads import map_in_threads
from shards.progress import track_progress

# pHash with the 16 x 16 lowest frequencies. Measured with 100 pictures that have the spectrum of photos: copies at JPEG
# quality 20, at a third of the size, in grey or with another gamma differ in 14 bits or fewer, copies cropped by 1 % on
# each side in 32 or fewer, and different pictures in more than 94.
_SIDE = 16
BITS = _SIDE * _SIDE
NEAR_DUPLICATE_BITS = 24  # bits that may differ
_MIN_TEXTURE = 2.0  # standard deviation in grey levels; pictures with less have meaningless hashes
_QUERIES, _OTHERS = 256, 65_536  # pictures per matrix product: 64 MB of results

Bits = npt.NDArray[np.float32]
"""float32[N, BITS]: 1 and -1; all 0 for a picture without texture, which is no near-duplicate of any."""


@dataclasses.dataclass(frozen=True)
class PictureHashes:
    """The hashes of N pictures."""

    packed: npt.NDArray[np.uint8]  # [N, BITS / 8], the bits
    has_texture: npt.NDArray[np.bool_]  # [N]

    @classmethod
    def pack(cls, bits: Bits) -> "PictureHashes":
        """Store bits in a 32nd of their memory."""
        return cls(np.packbits(bits > 0, axis=1), bits[:, 0] != 0)

    def __len__(self) -> int:
        return len(self.packed)

    def select(self, positions: npt.NDArray[np.int64]) -> "PictureHashes":
        """Return the hashes at these positions."""
        return PictureHashes(self.packed[positions], self.has_texture[positions])

    def unpack(self, start: int, count: int) -> Bits:
        """Return the bits of `count` pictures from `start` on."""
        part = slice(start, start + count)
        signs = np.unpackbits(self.packed[part], axis=1).astype(np.float32) * 2 - 1
        return signs * self.has_texture[part, None]


def hash_pictures(root: Path, index: IndexFile, console: Console | None = None) -> PictureHashes:
    """Hash the pictures of DIR on all cores; `console` gets the progress.

    Raises:
        ShardsError: a picture can't be read.
    """

    def hash_shard(members: list[TarMember]) -> PictureHashes:
        return PictureHashes.pack(np.array([hash_picture(pixels) for pixels in read_pictures(root, members)]))

    members = itertools.chain.from_iterable(map(members_of, index.read_parts(TarMember._fields)))
    found = [PictureHashes.pack(np.zeros((0, BITS), np.float32))]
    shards = (list(run) for _, run in itertools.groupby(members, lambda member: member.shard))
    hashed = map_in_threads(hash_shard, shards)  # OpenCV releases the GIL
    found += track_progress(hashed, sum(map(len, index.read_column("label"))), "pictures hashed", console, len)
    return PictureHashes(
        np.concatenate([each.packed for each in found]), np.concatenate([each.has_texture for each in found])
    )


def hash_picture(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return one row of `Bits`."""
    # OpenCV resizes with antialiasing, four times as fast as imagehash would.
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (4 * _SIDE, 4 * _SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < _MIN_TEXTURE:
        return np.zeros(BITS, np.float32)
    found = imagehash.phash(Image.fromarray(small), hash_size=_SIDE)
    return np.where(found.hash.ravel(), np.float32(1), np.float32(-1))


def nearest(queries: PictureHashes, others: PictureHashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the nearest of the others for each query; the first one of several.

    Returns:
        int64[N], positions in `others`; and int64[N], the number of bits that differ, BITS if there are no others.
    """
    positions = np.zeros(len(queries), np.int64)
    largest = np.full(len(queries), -np.inf, np.float32)
    for start in range(0, len(others), _OTHERS):
        block = others.unpack(start, _OTHERS)
        for first in range(0, len(queries), _QUERIES):
            batch = slice(first, first + _QUERIES)
            products = queries.unpack(first, _QUERIES) @ block.T  # number of equal bits minus that of others, exact
            best = products.argmax(axis=1)
            found = products[np.arange(len(best)), best]
            positions[batch] = np.where(found > largest[batch], start + best, positions[batch])
            largest[batch] = np.maximum(found, largest[batch])
    # The products of a picture without texture are 0.
    distances = np.full(len(queries), BITS, np.int64)
    if len(others):
        distances[queries.has_texture] = (BITS - largest[queries.has_texture].astype(np.int64)) // 2
    return positions, distances
