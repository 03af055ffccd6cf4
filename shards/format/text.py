"""Decodes the text files of Caffe's users, and finds the files that they name.

Caffe is a C++ program: a line or a file name is a sequence of bytes for it, in any encoding. Here both are text, so the
encoding is detected, and a name is encoded again to find its file.
"""

import codecs
import os
from pathlib import Path

# Tried in this order for a line of a file that is not UTF-8 as a whole. GB2312 is the common part of GBK. Both bytes of
# its characters have the high bit set. In Latin-1 text that is rare: a letter with an accent usually has ASCII letters
# on both sides.
_ENCODINGS = ("gb2312", "utf-8", "latin-1")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_lines(body: bytes) -> list[str]:
    """Return the lines of a text file, without their ends and without a byte order mark; never fails.

    The file is decoded as UTF-8, or as UTF-16 if its byte order mark says so; otherwise each line as GB2312, UTF-8 or
    Latin-1.
    """
    if body.startswith(_UTF_16):
        body = body.decode("utf-16", errors="replace").encode()
    lines = body.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").split(b"\n")
    encodings = ("utf-8",) if _decode(body, "utf-8") is not None else _ENCODINGS
    return [next(text for encoding in encodings if (text := _decode(line, encoding)) is not None) for line in lines]


def _decode(line: bytes, encoding: str) -> str | None:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return None


def find_file(name: str) -> Path:
    """Return the path of the file `name`, of a line that `decode_lines` returned.

    The file's name on disk may have any of the encodings. If there is no such file, the path is `name`.
    """
    for encoding in ("utf-8", *_ENCODINGS):
        try:
            path = os.fsdecode(name.encode(encoding))
        except UnicodeEncodeError:
            continue
        if os.path.exists(path):  # noqa: PTH110 -- Path.exists raises if the name is too long
            return Path(path)
    return Path(name)
