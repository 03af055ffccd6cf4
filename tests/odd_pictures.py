"""Pictures that few programs write, byte by byte: palettes with transparency, EXIF orientations, bombs, animations."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image


def smooth(number: int, height: int = 60, width: int = 90) -> np.ndarray:
    """Return a smooth BGR picture, a different one for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(extension: str, picture: np.ndarray) -> bytes:
    return cv2.imencode(extension, picture)[1].tobytes()


def noise(extension: str, height: int = 40, width: int = 64) -> bytes:
    """Return a picture whose details are different in every block of 8x8 pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return encode(extension, cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of raw rows, each with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def palette_png() -> bytes:
    """Return a PNG of 40x30 with three colours, the first of them transparent."""
    rows = b"".join(b"\0" + bytes((column // 8 + row // 8) % 3 for column in range(40)) for row in range(30))
    return png(40, 30, 8, 3, rows, (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])), (b"tRNS", b"\0"))


def bomb() -> bytes:
    """Return a valid PNG of 30000x30000: 500 KB that decode to 2.7 GB."""
    return png(30000, 30000, 1, 0, bytes((1 + 30000 // 8) * 30000))


def with_orientation(jpg: bytes, orientation: int) -> bytes:
    """Add an EXIF orientation (1 to 8) to a JPEG."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpg[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff + jpg[2:]


def animation(extension: str) -> bytes:
    """Return two frames, the first dark and the second bright."""
    frames = cv2.Animation()
    frames.frames = [np.full((40, 64, 3), level, np.uint8) for level in (10, 200)]
    frames.durations = [100, 100]
    return cv2.imencodeanimation(extension, frames)[1].tobytes()


def cmyk_jpg() -> bytes:
    """Return a CMYK JPEG of 90x60 pixels."""
    body = io.BytesIO()
    Image.fromarray(smooth(13)).convert("CMYK").save(body, "JPEG")
    return body.getvalue()
