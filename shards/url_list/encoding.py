"""Decompresses a list and re-encodes its text as UTF-8."""

import bz2
import codecs
import gzip
import lzma
import zlib

from shards.errors import ShardsError

_DECOMPRESSORS = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\x00": lzma.decompress}
_ENCODINGS = (  # by byte order mark; that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decompress(body: bytes, name: str) -> bytes:
    """Return the content of a gzip, bzip2 or xz file, and other bytes as they are. `name` is the list's in messages.

    Raises:
        ShardsError: the file is truncated or damaged.
    """
    for magic, function in _DECOMPRESSORS.items():
        if body.startswith(magic):
            try:
                return function(body)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise ShardsError(
                    f"--list {name} is a damaged or truncated compressed file ({error}); copy or download it again"
                ) from error
    return body


def to_utf8(body: bytes, name: str) -> bytes:
    """Return a text as UTF-8 without a byte order mark. Its encoding is that of its byte order mark, or UTF-8.

    Raises:
        ShardsError: the bytes are not text in that encoding.
    """
    mark, encoding = next(((mark, each) for mark, each in _ENCODINGS if body.startswith(mark)), (b"", "utf-8"))
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise ShardsError(
            f"--list {name} isn't {encoding.upper()} text at byte {error.start}, in line {line}; "
            "give a Parquet file, or CSV or JSON lines in UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ShardsError(f"--list {name}, line {line}: a NUL character; give a text file in UTF-8")
    return text.removeprefix("\ufeff").encode() if encoding != "utf-8" else body.removeprefix(mark)
