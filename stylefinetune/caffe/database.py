"""Reads the LMDB databases of Caffe's Data layers, with a picture and a label under each key.

LevelDB is not read; it has no maintained reader for Python.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError

from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import UserError, joined_sizes

_VARINT, _LENGTH_DELIMITED, _FIXED32 = 0, 2, 5  # protobuf's wire types
_LABEL = 5 << 3 | _VARINT  # the field `label` of a Datum


@dataclasses.dataclass(frozen=True)
class Database:
    """An LMDB database."""

    path: Path

    def version(self) -> str:
        """Return a text that is different after the database has changed: its size and the time of its last change.

        Raises:
            UserError: it isn't an LMDB database.
        """
        file = self.path / "data.mdb"
        try:
            found = file.stat()
        except OSError as error:
            raise UserError(
                f"{self.path} isn't an LMDB database: {file.name} can't be read ({error.strerror})"
            ) from error
        return f"{found.st_size}-{found.st_mtime_ns}"

    def labels(self) -> Iterator[tuple[str, int]]:
        """Yield the key and the label of each picture, in the order of the keys, without reading the pixels.

        Raises:
            UserError: it can't be read.
        """
        with self._items() as items:
            for key, value in items:
                name = bytes(key).decode(errors="replace")
                yield name, _label(value, f"{self.path}, key {name}")

    def pictures(self, start: int = 0) -> Iterator[bytes]:
        """Yield the pictures from the one at place `start` on, each as the bytes of an image file.

        A picture that is stored as pixels becomes a PNG.

        Raises:
            UserError: it can't be read, or has something else than pictures of three channels.
        """
        with self._items() as items:
            for place, (key, value) in enumerate(items):
                if place >= start:
                    yield _picture(bytes(value), f"{self.path}, key {bytes(key).decode(errors='replace')}")

    @contextlib.contextmanager
    def _items(self) -> Generator[Iterator[tuple[memoryview, memoryview]]]:
        """Yield the pairs of keys and values, which are valid until the next one is read."""
        try:
            import lmdb  # noqa: PLC0415 -- an extra
        except ImportError as error:
            raise UserError(
                f"{self.path} is an LMDB database, and the package lmdb isn't installed; run: "
                "pip install 'stylefinetune[lmdb]'"
            ) from error
        self.version()
        try:
            # No lock: the database isn't written, and may be on a file system that is read-only.
            with (
                lmdb.open(str(self.path), readonly=True, lock=False, readahead=False) as database,
                database.begin(buffers=True) as transaction,
                transaction.cursor() as cursor,
            ):
                yield iter(cursor)
        except lmdb.Error as error:
            raise UserError(f"{self.path} can't be read as an LMDB database: {error}") from error


def _label(datum: memoryview, where: str) -> int:
    """Return the label of a Datum, without a copy of its pixels."""
    place, label = 0, 0
    try:
        while 0 <= place < len(datum):
            tag, place = _varint(datum, place)
            number, place = _varint(datum, place) if tag & 7 != _FIXED32 else (4, place)
            if tag & 7 in (_LENGTH_DELIMITED, _FIXED32):
                place += number
            elif tag == _LABEL:
                label = number
            elif tag & 7 != _VARINT:
                place = -1
    except IndexError:
        place = -1
    if place != len(datum):
        raise _not_datum(where)
    return label if label < 2**63 else label - 2**64


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return the number at a place, and the place after it."""
    number = shift = 0
    while shift < 70:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
    raise IndexError


def _picture(value: bytes, where: str) -> bytes:
    datum: Any = message_class("Datum")()
    try:
        datum.ParseFromString(value)
    except DecodeError as error:
        raise _not_datum(where) from error
    if datum.encoded:
        return datum.data
    shape = (datum.channels, datum.height, datum.width)
    if shape[0] != 3 or min(shape) < 1 or len(datum.data) != np.prod(shape):
        numbers = " of real numbers" if datum.float_data else ""
        sizes = joined_sizes(shape)
        raise UserError(
            f"{where}: it has {sizes} values{numbers} in {len(datum.data)} bytes; 3 channels of bytes are needed"
        )
    pixels = np.frombuffer(datum.data, np.uint8).reshape(shape).transpose(1, 2, 0)  # BGR
    return cv2.imencode(".png", pixels)[1].tobytes()


def _not_datum(where: str) -> UserError:
    return UserError(f"{where}: the value isn't one of Caffe's Datum messages")
