"""Small JPEGs of the pictures of a split, for pages that show predictions."""

import contextlib
import os
from pathlib import Path

import cv2

from shards.format import ShardsError
from shards.format.images import BadPicture, Pixels, read_member
from shards.format.index import Entries, ShardIndex

_SIDE = 112  # pixels of the longer side


class ShownPictures:
    """The pictures of an earlier test. Its shards may be gone, or have other pictures by now.

    Args:
        shards: folder of the shards.
        split: split of the test.
    """

    def __init__(self, shards: str, split: str) -> None:
        self._entries: Entries | None = None
        with contextlib.suppress(ShardsError):
            self._entries = ShardIndex.load(Path(shards)).entries(split)

    @property
    def are_there(self) -> bool:
        """Whether the shards can be read."""
        return self._entries is not None

    def thumbnail(self, row: int, key: str, side: int = _SIDE) -> bytes:
        """Return the picture of a row, which had this key, as `thumbnail` does; empty if it isn't there any more."""
        entries = self._entries
        if entries is None or row >= len(entries) or entries.key[row] != key:
            return b""
        return thumbnail(entries, row, side)


def thumbnail(entries: Entries, row: int, side: int = _SIDE) -> bytes:
    """Return a row's picture as a JPEG whose longer side is at most `side`; empty if it can't be read."""
    try:
        with (entries.root / entries.shard[row]).open("rb") as file:
            body = os.pread(file.fileno(), int(entries.length[row]), int(entries.offset[row]))
        return encode_thumbnail(read_member(body, entries.format[row]), side)
    except (OSError, BadPicture):
        return b""


def encode_thumbnail(pixels: Pixels, side: int) -> bytes:
    """Return uint8[H, W, 3], RGB, as a JPEG whose longer side is at most `side`."""
    height, width, _ = pixels.shape
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return encoded.tobytes()
