"""Decompresses a list and re-encodes its text as UTF-8, through temporary files, in little memory."""

import bz2
import codecs
import contextlib
import gzip
import lzma
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from shards.errors import ShardsError
from shards.files import is_full_disk

_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_ENCODINGS = (  # by byte order mark; that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK = 2**20  # bytes


def decompress(file: IO[bytes], name: str, work: Path | None = None, limit: int | None = None) -> IO[bytes]:
    """Return the content of a gzip, bzip2 or xz file as a temporary file in `work`, and another file as it is.

    `name` is the list's in messages. `limit` is the largest content in bytes.

    Raises:
        ShardsError: the file is truncated or damaged, or its content is too large.
    """
    head = _peek(file)
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    if opener is None:
        return file
    with contextlib.ExitStack() as stack:
        content = stack.enter_context(tempfile.TemporaryFile(dir=work))
        for chunk in _read_compressed(opener(file), name):
            content.write(chunk)
            if limit is not None and content.tell() > limit:
                raise ShardsError(
                    f"--list {name} has more than {limit:,} bytes when it is decompressed; "
                    f"if all of it is wanted, give --max_list_bytes {2 * limit}"
                )
        stack.pop_all()
    content.seek(0)
    return content


def _read_compressed(file: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        with file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        if is_full_disk(error):
            raise
        raise ShardsError(
            f"--list {name} is a damaged or truncated compressed file ({error}); copy or download it again"
        ) from error


def to_utf8(file: IO[bytes], name: str, work: Path | None = None) -> IO[bytes]:
    """Return a text as UTF-8, positioned after its byte order mark. Its encoding is that of the mark, or UTF-8.

    A text in another encoding is written to a temporary file in `work`.

    Raises:
        ShardsError: the bytes are not text in that encoding.
    """
    head = _peek(file)
    mark, encoding = next(((mark, each) for mark, each in _ENCODINGS if head.startswith(mark)), (b"", "utf-8"))
    if encoding == "utf-8":
        for _ in _decode(file, encoding, name):
            pass
        file.seek(len(mark))
        return file
    with contextlib.ExitStack() as stack:
        recoded = stack.enter_context(tempfile.TemporaryFile(dir=work))
        for text in _decode(file, encoding, name):
            recoded.write((text if recoded.tell() else text.removeprefix("\ufeff")).encode())
        stack.pop_all()
    recoded.seek(0)
    return recoded


def _decode(file: IO[bytes], encoding: str, name: str) -> Iterator[str]:
    """Yield the text of a file.

    Raises:
        ShardsError: it is not in this encoding, or has a NUL character.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    pending = b""  # the first bytes of a character that continues in the next chunk
    place = lines = 0  # bytes, and line ends among them, before `pending`
    text_lines, nul_line = 0, None
    is_end = False
    while not is_end:
        chunk = file.read(_CHUNK)
        is_end = not chunk
        try:
            text = decoder.decode(chunk, is_end)
        except UnicodeDecodeError as error:
            line = lines + (pending + chunk).count(b"\n", 0, error.start) + 1
            raise ShardsError(
                f"--list {name} isn't {encoding.upper()} text at byte {place + error.start}, in line {line}; "
                "give a Parquet file, or CSV or JSON lines in UTF-8"
            ) from error
        if nul_line is None and "\0" in text:
            nul_line = text_lines + text.count("\n", 0, text.index("\0")) + 1
        yield text
        text_lines += text.count("\n")
        rest = decoder.getstate()[0]
        place += len(pending) + len(chunk) - len(rest)
        lines += chunk.count(b"\n") + pending.count(b"\n") - rest.count(b"\n")
        pending = rest
    if nul_line is not None:
        raise ShardsError(f"--list {name}, line {nul_line}: a NUL character; give a text file in UTF-8")


def _peek(file: IO[bytes]) -> bytes:
    head = file.read(8)
    file.seek(0)
    return head
