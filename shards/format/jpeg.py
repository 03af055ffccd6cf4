"""Reads the segments of a JPEG: its size, and whether it is complete except for its end marker."""

import struct
from collections.abc import Iterator

import simplejpeg

EOI = b"\xff\xd9"
# SOF0..SOF15, the segments with the size: all of 0xCn except DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA
# Markers without a length: TEM, RST0..RST7, SOI, EOI. A zero is a 0xFF byte of compressed data.
_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
_COEFFICIENTS = frozenset(range(64))  # of a block


def read_size(body: bytes) -> tuple[int, int]:
    """Return the width and height in the frame header.

    Raises:
        ValueError: there is no such header where it must be.
        struct.error, IndexError: the file ends within its header.
    """
    for marker, position in _segments(body):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", body, position + 3)
            return width, height
        if marker == _SCAN:
            raise ValueError("jpg whose scan comes before its frame header")
    raise ValueError("jpg without a frame header")


def complete_end(body: bytes) -> bytes | None:
    """Return the JPEG with an end marker if that is all that it lacks; otherwise None.

    libjpeg decodes a file that ends within a scan, too: it fills the missing part with grey. That is a warning of
    libjpeg, which OpenCV drops; simplejpeg raises it. libjpeg does not notice missing scans of a progressive file.
    """
    completed = body.rstrip(b"\xff") + EOI
    try:
        if not _has_all_scans(completed):
            return None
        simplejpeg.decode_jpeg(completed, colorspace="GRAY", strict=True)
    except (ValueError, KeyError, IndexError, struct.error):
        return None
    return completed


def _segments(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield each segment's marker and the position of its length; bytes between segments are skipped, as in libjpeg."""
    position = 2
    while True:
        position = body.find(b"\xff", position)
        if position < 0:
            return
        while body[position] == 0xFF:  # any number of fill bytes may precede a marker
            position += 1
        marker = body[position]
        position += 1
        if marker not in _STANDALONE:
            yield marker, position
            position += struct.unpack_from(">H", body, position)[0]


def _has_all_scans(body: bytes) -> bool:
    """Return whether the scans have every bit of all 64 coefficients of each component.

    A scan header has the components' ids, the range of coefficients, and the position of their lowest bit that is
    still missing after the scan.
    """
    missing: dict[int, set[int]] = {}
    for marker, position in _segments(body):
        if marker in _FRAMES:
            count = body[position + 7]
            missing = {body[position + 8 + 3 * n]: set(_COEFFICIENTS) for n in range(count)}
        elif marker == _SCAN:
            count = body[position + 2]
            components = body[position + 3 : position + 3 + 2 * count : 2]
            first, last, bits = body[position + 3 + 2 * count : position + 6 + 2 * count]
            if bits & 0x0F == 0:
                for component in components:
                    missing[component] -= set(range(first, last + 1))
    return bool(missing) and not any(missing.values())
