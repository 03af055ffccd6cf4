"""Checks, decodes and resizes pictures; the pixels are bit for bit those of Caffe's OpenCV."""

import dataclasses
import io
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from shards.errors import first_line
from shards.format import jpeg
from shards.format.outcomes import Status

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8[H, W, 3], RGB."""


@dataclasses.dataclass(frozen=True)
class SizeLimits:
    """The sizes that a picture may have."""

    min_side: int  # pixels
    max_pixels: int


WEB_LIMITS = SizeLimits(min_side=16, max_pixels=50_000_000)  # smaller ones are tracking pixels, larger ones bombs
OPENCV_LIMITS = SizeLimits(min_side=1, max_pixels=2**30)  # what cv2.imread reads

# Files in folders with other extensions are skipped. HEIC can't be read, but the outcome says so.
PICTURE_EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "jp2", "avif", "heic", "heif"}
    | {"ppm", "pgm", "pbm", "pnm", "pxm", "sr", "ras", "hdr", "exr"}
)

_MAX_SIDE = 2**20  # pixels that cv2.imread reads
_REDUCTION = 8  # cv2.IMREAD_REDUCED_COLOR_8 divides the sides by it, rounding up
_GZIP = b"\x1f\x8b"
_JPEG = b"\xff\xd8\xff"
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
_LOCAL_FORMATS = {b"ftypavif": "AVIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}  # kept from local files, as PNG
_DIB_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)


class BadPicture(ValueError):  # noqa: N818 -- a result of a check, not an error in the program
    """A picture that must not be kept; `status` is the outcome to record, and the message is one line."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def decode_picture(body: bytes | memoryview) -> Pixels:
    """Decode a picture as `cv2.imread` does: the first frame, without alpha, after EXIF orientation.

    A JPEG may lack its end marker. If more of it is missing, it is refused; `cv2.imread` fills the rest with grey.

    Raises:
        BadPicture: it doesn't decode completely.
        MemoryError: there is not enough memory for the pixels.
    """
    return _decode(body, cv2.IMREAD_COLOR_RGB)


def _decode(body: bytes | memoryview, flag: int) -> Pixels:
    pixels = _try_decode(body, flag)
    if pixels is None and body[:3] == _JPEG:
        completed = jpeg.complete_end(bytes(body))
        pixels = _try_decode(completed, flag) if completed else None
    if pixels is None:
        raise BadPicture(Status.CORRUPT, "doesn't decode")
    return pixels


def _try_decode(body: bytes | memoryview, flag: int) -> Pixels | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(body, np.uint8), flag) if len(body) else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # the picture may be good
            raise MemoryError(error.err) from error
        if "CV_IO_MAX_IMAGE" in error.err:  # the name of a limit
            limit = f"OpenCV reads at most {_MAX_SIDE:,} pixels a side and {OPENCV_LIMITS.max_pixels:,} in all"
            raise BadPicture(Status.TOO_MANY_PIXELS, limit) from error
        raise BadPicture(Status.CORRUPT, f"doesn't decode: {error.err}") from error
    return None if pixels is None else np.asarray(pixels, np.uint8)


def resize_picture(pixels: Pixels, height: int, width: int | None = None, out: Pixels | None = None) -> Pixels:
    """Resize to uint8[height, width, 3], a square without `width`; into `out` if it is given.

    As in Caffe, the aspect ratio isn't kept, and there is no antialiasing.
    """
    width = height if width is None else width
    return np.asarray(cv2.resize(pixels, (width, height), dst=out, interpolation=cv2.INTER_LINEAR), np.uint8)


def read_member(body: bytes | memoryview, format: str) -> Pixels:  # noqa: A002 -- the name of the index's column
    """Return the pixels of a picture stored in a shard; the format "npy" gives a view of `body`.

    Raises:
        BadPicture: the bytes don't have this format, or don't decode.
    """
    return _view_npy(body) if format == "npy" else decode_picture(body)


def convert_to_png(body: bytes) -> bytes | None:
    """Return a picture in any format that OpenCV reads, such as TIFF or PPM, as a PNG with the same pixels, or None."""
    try:
        return cv2.imencode(".png", _decode(body, cv2.IMREAD_COLOR))[1].tobytes()
    except BadPicture:
        return None


def inspect_picture(body: bytes, limits: SizeLimits = WEB_LIMITS) -> Pixels:
    """Check and decode a response body; its size is checked before it is decoded.

    Raises:
        BadPicture: it must not be kept; the status gives the reason.
    """
    _, width, height = _check_header(body, limits)
    pixels = decode_picture(body)
    if sorted(pixels.shape[:2]) != sorted((width, height)):  # sorted: EXIF may have turned it
        raise BadPicture(Status.CORRUPT, f"decodes to {pixels.shape[1]}x{pixels.shape[0]}, not its {width}x{height}")
    return pixels


def measure_picture(body: bytes, limits: SizeLimits = WEB_LIMITS) -> tuple[str, int, int]:
    """Return the format, width and height; faster than `inspect_picture`, with the same checks.

    A JPEG is decoded at an eighth of its size: every byte is read, but most of the inverse transform is skipped.

    Raises:
        BadPicture: it must not be kept; the status gives the reason.
    """
    kind, width, height = _check_header(body, limits)
    reduced = -(-height // _REDUCTION), -(-width // _REDUCTION)
    if kind == "jpg" and (width == height or reduced[0] != reduced[1]):  # the reduced shape shows whether EXIF turns it
        shape = _decode(body, cv2.IMREAD_REDUCED_COLOR_8).shape[:2]
        if shape == reduced:
            return kind, width, height
        if shape == reduced[::-1]:
            return kind, height, width
    height, width, _ = inspect_picture(body, limits).shape
    return kind, width, height


def _check_header(body: bytes, limits: SizeLimits) -> tuple[str, int, int]:
    """Return the format, width and height in the header.

    Raises:
        BadPicture: there is no such header, or the size is out of range.
    """
    kind = detect_format(body)
    if kind is None:
        if body.startswith(_GZIP):
            raise BadPicture(Status.BAD_ENCODING, "still gzip-compressed")
        if body[4:12] in _HEIC:
            raise BadPicture(Status.NOT_AN_IMAGE, "HEIC, which OpenCV doesn't read; convert it to JPEG")
        if name := _LOCAL_FORMATS.get(body[4:12]) or _LOCAL_FORMATS.get(body[:4]):
            raise BadPicture(Status.NOT_AN_IMAGE, f"{name}, which is damaged or not from a local file")
        raise BadPicture(Status.NOT_AN_IMAGE, f"begins with {body[:16]!r}" if body else "is empty")
    try:
        width, height = _HEADER_READERS[kind](body)
    except (struct.error, IndexError) as error:
        raise BadPicture(Status.CORRUPT, f"{kind} cut within its header") from error
    except ValueError as error:
        raise BadPicture(Status.CORRUPT, str(error)) from error
    if width * height > limits.max_pixels:
        raise BadPicture(Status.TOO_MANY_PIXELS, f"{width}x{height} is over {limits.max_pixels:,} pixels")
    if min(width, height) < limits.min_side:
        raise BadPicture(Status.TOO_SMALL, f"{width}x{height} is under {limits.min_side} pixels a side")
    return kind, width, height


def npy_header(height: int, width: int) -> bytes:
    """Return what precedes the pixels of a picture in the format "npy", as `numpy.save` writes it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (height, width, 3)})
    return header.getvalue()


def _view_npy(body: bytes | memoryview) -> Pixels:
    header = io.BytesIO(body[:256])  # a uint8[H, W, 3] header has 128
    try:
        version = np.lib.format.read_magic(header)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(header)
    except ValueError as error:
        raise BadPicture(Status.CORRUPT, f"not an npy file: {first_line(error)}") from error
    if version != (1, 0) or dtype != np.uint8 or fortran_order or len(shape) != 3 or shape[2] != 3:
        raise BadPicture(Status.CORRUPT, f"npy of {dtype}{list(shape)}; expected uint8[H, W, 3] in C order")
    if len(body) - header.tell() != shape[0] * shape[1] * shape[2]:
        raise BadPicture(Status.CORRUPT, f"npy of {list(shape)} in {len(body)} bytes")
    return np.frombuffer(body, np.uint8, offset=header.tell()).reshape(shape)


def detect_format(body: bytes) -> str | None:
    """Detect the format from the first bytes alone; None if they are not a picture's."""
    if body.startswith(_JPEG):
        return "jpg"
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if body.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "webp"
    # Text may begin with BM, too, so the size of the next header must be a known one.
    if body.startswith(b"BM") and int.from_bytes(body[14:18], "little") in _DIB_HEADER_SIZES:
        return "bmp"
    return None


def _png_size(body: bytes) -> tuple[int, int]:
    kind = body[12:16]
    if kind == b"CgBI":
        raise ValueError("png in Apple's CgBI variant, which only Apple's programs read; convert it to a standard PNG")
    if len(kind) == 4 and kind != b"IHDR":
        raise ValueError(f"png that begins with a chunk {kind!r}")
    width, height = struct.unpack_from(">II", body, 16)
    return width, height


def _bmp_size(body: bytes) -> tuple[int, int]:
    if body[14] == 12:  # OS/2 1.x
        width, height = struct.unpack_from("<HH", body, 18)
    else:
        width, height = struct.unpack_from("<ii", body, 18)
    return abs(width), abs(height)  # a negative height: the rows are stored top to bottom


def _webp_size(body: bytes) -> tuple[int, int]:
    """Read the size; source: the WebP container specification, and RFC 6386 for the lossy bitstream."""
    chunk = body[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", body, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"webp that begins with a chunk {chunk!r}")


_HEADER_READERS: dict[str, Callable[[bytes], tuple[Any, ...]]] = {
    "jpg": jpeg.read_size,
    "png": _png_size,
    "gif": lambda body: struct.unpack_from("<HH", body, 6),
    "bmp": _bmp_size,
    "webp": _webp_size,
}
