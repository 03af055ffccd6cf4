"""Writes samples to WebDataset tars, and reads pictures from them by the offsets in the index.

All of `webdataset` that this package uses is imported here.
"""

import functools
import io
import itertools
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from shards.errors import ShardsError
from shards.format.images import BadPicture, Pixels, read_member
from shards.format.index import LABELS

# webdataset imports torch if it is installed: 2 s and 470 MB per process. What is used of it needs no torch.
# A None in sys.modules makes that import fail, as where torch is not installed.
_modules = cast("dict[str, Any]", sys.modules)
_modules.setdefault("torch", None)
try:
    from webdataset.shardlists import expand_urls
    from webdataset.tariterators import group_by_keys
    from webdataset.writer import TarWriter
finally:
    if _modules["torch"] is None:
        del _modules["torch"]

__all__ = ["SampleWriter", "TarMember", "expand_urls", "group_by_keys", "members_of", "read_pictures", "sample_json"]

# Fields of a tar header: the octal digits of the size, and of the checksum with the zero after them.
_SIZE = slice(124, 135)
_CHECKSUM = slice(148, 155)
_MAX_NAME = 100  # bytes; a longer name needs a further header
_MAX_SIZE = 8**11  # bytes; a larger one isn't written in octal digits


class SampleWriter:
    """Writes samples to a tar and returns the offsets of their members; use it in a `with`.

    Equal samples give equal bytes: the tar records no user and no time.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Start a tar in an empty file."""
        self._file = file
        self._writer = _create_writer(file)

    def __enter__(self) -> "SampleWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Append a sample: the bytes of each member by extension; return their offsets in the file by extension.

        The key has no dot.
        """
        offsets: dict[str, int] = {}
        for extension, body in sorted(members.items()):
            padded = -(-len(body) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            name = f"{key}.{extension}"
            if name.isascii() and len(name) <= _MAX_NAME and len(body) < _MAX_SIZE:
                self._file.write(_header(name, len(body)))
                self._file.write(body)
                self._file.write(bytes(padded - len(body)))
                self._writer.tarstream.offset += tarfile.BLOCKSIZE + padded
            else:
                self._writer.write({"__key__": key, extension: body})
            offsets[extension] = self._writer.tarstream.offset - padded
        return offsets


def sample_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the JSON of a row's sample has: the URL, the list's other columns, and the labels if several."""
    labels = {LABELS.name: row[LABELS.name]} if LABELS.name in row else {}
    return {"image_url": row["image_url"]} | json.loads(row["extra"]) | labels


def _create_writer(file: BinaryIO) -> TarWriter:
    """Return a writer of webdataset that writes directly to the file, without another buffer."""
    writer = TarWriter(file, encoder=False, mtime=0, user="", group="")
    writer.tarstream = tarfile.open(fileobj=file, mode="w")  # noqa: SIM115 -- the writer closes it
    return writer


@functools.cache
def _header_template() -> bytes:
    """Return webdataset's header without the name of its member, and with spaces instead of the checksum."""
    tar = io.BytesIO()
    _create_writer(tar).write({"__key__": "", "x": b""})
    header = bytearray(tar.getvalue()[: tarfile.BLOCKSIZE])
    header[: len(".x")] = bytes(len(".x"))
    header[_CHECKSUM] = b" " * 7
    return bytes(header)


def _header(name: str, size: int) -> bytearray:
    """Return the same header as webdataset in a tenth of the time."""
    header = bytearray(_header_template())
    header[: len(name)] = name.encode()
    header[_SIZE] = b"%011o" % size
    header[_CHECKSUM] = b"%06o\0" % sum(header)
    return header


class TarMember(NamedTuple):
    """The position of a stored picture; the fields are columns of `INDEX_SCHEMA`."""

    shard: str
    offset: int
    length: int
    format: str


def members_of(table: pa.Table) -> list[TarMember]:
    """Return the tar member of each row of an index."""
    columns = [table.column(name).to_pylist() for name in TarMember._fields]
    return [TarMember(*values) for values in zip(*columns, strict=True)]


def read_pictures(root: Path, members: Iterable[TarMember]) -> Iterator[Pixels]:
    """Yield the decoded pictures; a shard is opened once for each run of members in it.

    Raises:
        ShardsError: a picture doesn't decode, or its shard can't be read.
    """
    for shard, run in itertools.groupby(members, lambda member: member.shard):
        path = root / shard
        try:
            with path.open("rb") as tar:
                for member in run:
                    tar.seek(member.offset)
                    yield read_member(tar.read(member.length), member.format)
        except BadPicture as error:
            raise ShardsError(f"{path}: a picture in it is damaged ({error}); see: shards verify {root}") from error
        except OSError as error:
            raise ShardsError(f"{path}: {error.strerror}, but the index names it") from error
