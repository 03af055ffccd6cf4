"""Writes samples to WebDataset tars, and reads pictures from them by the offsets in the index."""

import itertools
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from shards.errors import ShardsError
from shards.format.images import BadPicture, Pixels, read_member

# webdataset imports torch for its readers if torch is installed: 2 s and 470 MB per process. Its writer needs no torch.
# A None in sys.modules makes that import fail, as where torch is not installed.
_modules = cast("dict[str, Any]", sys.modules)
_modules.setdefault("torch", None)
try:
    from webdataset.writer import TarWriter
finally:
    if _modules["torch"] is None:
        del _modules["torch"]


class SampleWriter:
    """Writes samples to a tar and returns the offsets of their members; use it in a `with`.

    Equal samples give equal bytes: the tar records no user and no time.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Start a tar in an empty file."""
        self._writer = TarWriter(file, encoder=False, mtime=0, user="", group="")

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
            self._writer.write({"__key__": key, extension: body})
            padded = -(-len(body) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            offsets[extension] = self._writer.tarstream.offset - padded
        return offsets


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
            raise ShardsError(f"{path}: a picture in it {error}; see: python -m shards verify {root}") from error
        except OSError as error:
            raise ShardsError(f"{path}: {error.strerror}, but the index names it") from error
