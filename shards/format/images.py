"""Are these bytes a picture worth keeping? Decoding and resizing, bit for bit as Caffe's OpenCV does it."""

import dataclasses
import io
import struct
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from shards.format.outcomes import Status

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8[H, W, 3], RGB."""

MIN_SIDE = 16
MAX_PIXELS = 50_000_000

_EIGHTH = 8  # what cv2.IMREAD_REDUCED_COLOR_8 divides the sides by, rounding up
_GZIP = b"\x1f\x8b"
_DIB_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
# SOF0..SOF15: the JPEG segments that hold the size, all 0xCn but for DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
# Markers that stand alone, without a length: TEM, RST0..RST7, SOI.
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


class BadPicture(ValueError):  # noqa: N818 - it is a finding about the bytes more than an error of the program's
    """These bytes are no picture worth keeping; the message is one line.

    Attributes:
        status: the outcome to record.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that passed every check.

    Attributes:
        format: of the bytes it came from, told by their first few: jpg, png, webp, gif or bmp.
        pixels: as decoded, EXIF orientation applied.
    """

    format: str
    pixels: Pixels


def decode_picture(body: bytes | memoryview) -> Pixels:
    """Decodes a picture in any format that OpenCV reads, as `cv2.imread` would: first frame, alpha dropped, upright.

    Raises:
        BadPicture: it doesn't decode whole.
        MemoryError: there is no room for it.
    """
    return np.asarray(cv2.cvtColor(_decode_bgr(body, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def _decode_bgr(body: bytes | memoryview, flag: int) -> Pixels:
    try:
        bgr = cv2.imdecode(np.frombuffer(body, np.uint8), flag) if len(body) else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # which says nothing of the picture
            raise MemoryError(error.err) from error
        raise BadPicture(Status.CORRUPT, f"doesn't decode: {error.err}") from error
    if bgr is None:
        raise BadPicture(Status.CORRUPT, "doesn't decode")
    return np.asarray(bgr, np.uint8)


def resize_picture(pixels: Pixels, height: int, width: int | None = None) -> Pixels:
    """Returns uint8[height, width, 3], a square unless width is given.

    The aspect ratio isn't kept, and there is no antialiasing, as in Caffe.
    """
    width = height if width is None else width
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def read_member(body: bytes | memoryview, format: str) -> Pixels:  # noqa: A002 - the index's column is called that
    """Returns the pixels of a picture as it is stored in a shard.

    Args:
        body: the tar member's bytes.
        format: as the index has it; "npy" is returned as a read-only view of `body`, anything else is decoded.

    Raises:
        BadPicture: the bytes aren't what `format` says, or don't decode.
    """
    return _view_npy(body) if format == "npy" else decode_picture(body)


def inspect_picture(body: bytes) -> Picture:
    """Decodes a downloaded body if it is a picture worth keeping; its size is judged before anything is decoded.

    Raises:
        BadPicture: it isn't one; the status says why.
    """
    kind, width, height = _check_header(body)
    pixels = decode_picture(body)
    if sorted(pixels.shape[:2]) != sorted((width, height)):  # sorted: EXIF may have turned it
        raise BadPicture(Status.CORRUPT, f"decodes to {pixels.shape[1]}x{pixels.shape[0]}, not its {width}x{height}")
    return Picture(kind, pixels)


def measure_picture(body: bytes) -> tuple[str, int, int]:
    """Returns the format, width and height that `inspect` would find, and refuses what it would, in less time.

    A JPEG is decoded at an eighth of its size: every byte is read as for the whole, but most of the transforms aren't
    done.

    Raises:
        BadPicture: it is no picture worth keeping; the status says why.
    """
    kind, width, height = _check_header(body)
    eighth = -(-height // _EIGHTH), -(-width // _EIGHTH)
    is_told_by_eighth = width == height or eighth[0] != eighth[1]  # whether EXIF turns it
    if kind == "jpg" and is_told_by_eighth:
        found = _decode_bgr(body, cv2.IMREAD_REDUCED_COLOR_8).shape[:2]
        if found == eighth:
            return kind, width, height
        if found == eighth[::-1]:
            return kind, height, width
    height, width, _ = inspect_picture(body).pixels.shape
    return kind, width, height


def _check_header(body: bytes) -> tuple[str, int, int]:
    """Returns the format, width and height that a body claims.

    Raises:
        BadPicture: it is no picture, or of no size that is worth decoding.
    """
    kind = detect_format(body)
    if kind is None:
        raise _no_picture(body)
    try:
        width, height = _HEADER_READERS[kind](body)
    except (struct.error, IndexError) as error:
        raise BadPicture(Status.CORRUPT, f"{kind} that ends within its header") from error
    if width * height > MAX_PIXELS:
        raise BadPicture(Status.TOO_MANY_PIXELS, f"{width}x{height} is over {MAX_PIXELS:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise BadPicture(Status.TOO_SMALL, f"{width}x{height} is under {MIN_SIDE} pixels a side")
    return kind, width, height


def _no_picture(body: bytes) -> BadPicture:
    if body.startswith(_GZIP):
        return BadPicture(Status.BAD_ENCODING, "still gzip-compressed")
    beginning = repr(body[:16]) if body else "nothing"
    return BadPicture(Status.NOT_AN_IMAGE, f"begins with {beginning}")


def _view_npy(body: bytes | memoryview) -> Pixels:
    header = io.BytesIO(body[:256])  # far more than the 128 bytes of a uint8[H, W, 3] header
    try:
        version = np.lib.format.read_magic(header)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(header)
    except ValueError as error:
        raise BadPicture(Status.CORRUPT, f"not an npy file: {str(error).splitlines()[0]}") from error
    if version != (1, 0) or dtype != np.uint8 or fortran_order or len(shape) != 3 or shape[2] != 3:
        raise BadPicture(Status.CORRUPT, f"npy of {dtype}{list(shape)}, where uint8[H, W, 3] in C order was expected")
    if len(body) - header.tell() != shape[0] * shape[1] * shape[2]:
        raise BadPicture(Status.CORRUPT, f"npy of {list(shape)} in {len(body)} bytes")
    return np.frombuffer(body, np.uint8, offset=header.tell()).reshape(shape)


def detect_format(body: bytes) -> str | None:
    """Tells the format from the first bytes, whatever the URL or Content-Type claimed; None if it is no picture's."""
    if body.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if body.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "webp"
    # Two letters are little to go by, so the next header's size must be one that exists.
    if body.startswith(b"BM") and int.from_bytes(body[14:18], "little") in _DIB_HEADER_SIZES:
        return "bmp"
    return None


def _jpg_size(body: bytes) -> tuple[int, int]:
    """Walks the segments to the frame header; as libjpeg does, skips what stands between two of them."""
    place = 2
    while True:
        place = body.find(b"\xff", place)
        if place < 0:
            raise BadPicture(Status.CORRUPT, "jpg without a frame header")
        while body[place] == 0xFF:  # any number of fill bytes may precede a marker
            place += 1
        marker = body[place]
        place += 1
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", body, place + 3)
            return width, height
        if marker == _JPEG_SCAN:
            raise BadPicture(Status.CORRUPT, "jpg whose scan comes before its frame header")
        if marker and marker not in _JPEG_BARE:
            place += struct.unpack_from(">H", body, place)[0]


def _png_size(body: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", body, 16)
    return width, height


def _gif_size(body: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", body, 6)
    return width, height


def _bmp_size(body: bytes) -> tuple[int, int]:
    if body[14] == 12:  # OS/2's old header
        width, height = struct.unpack_from("<HH", body, 18)
    else:
        width, height = struct.unpack_from("<ii", body, 18)
    return abs(width), abs(height)  # a negative height means that the rows are stored from the top


def _webp_size(body: bytes) -> tuple[int, int]:
    """Source: the WebP container specification, and RFC 6386 for the lossy bitstream."""
    chunk = body[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", body, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise BadPicture(Status.CORRUPT, f"webp that begins with a chunk {chunk!r}")


_HEADER_READERS = {"jpg": _jpg_size, "png": _png_size, "gif": _gif_size, "bmp": _bmp_size, "webp": _webp_size}
