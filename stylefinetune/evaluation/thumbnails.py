"""Small JPEGs of the pictures of a split, for pages that show predictions."""

import os

import cv2

from shards.format.images import BadPicture, Pixels, read_member
from shards.format.index import Entries

_SIDE = 112  # pixels of the longer side


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
