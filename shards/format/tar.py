"""WebDataset's form of a tar: each sample some members with the key before their first dot, here with known places."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from shards.errors import ShardsError
from shards.format.images import BadPicture, Pixels, read_member

_MODE = 0o444


class SampleWriter:
    """Writes samples to a tar, within a `with`; equal samples make equal bytes, which name no user and no time.

    Source: the WebDataset format, https://github.com/webdataset/webdataset.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Begins a tar in an empty file."""
        self._file = file
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 -- a `with` of ours

    def __enter__(self) -> "SampleWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def write(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Appends a sample.

        Args:
            key: of the sample, without a dot.
            members: their bytes by extension.

        Returns:
            Where in the file each member's bytes begin, by extension.
        """
        places: dict[str, int] = {}
        for extension, body in sorted(members.items()):
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size, header.mode = len(body), _MODE
            self._tar.addfile(header, io.BytesIO(body))
            places[extension] = self._file.tell() - -(-len(body) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return places


class TarMember(NamedTuple):
    """Where a picture lies: columns of `index.SCHEMA`."""

    shard: str
    offset: int
    length: int
    format: str


def members_of(table: pa.Table) -> list[TarMember]:
    """Returns where the pictures of an index lie, row by row."""
    columns = [table.column(name).to_pylist() for name in TarMember._fields]
    return [TarMember(*values) for values in zip(*columns, strict=True)]


def read_pictures(root: Path, members: Iterable[TarMember]) -> Iterator[Pixels]:
    """Yields the pictures, decoded; those that follow each other in a shard are read with one opening of it.

    Raises:
        ShardsError: one doesn't decode, or its shard can't be read.
    """
    shard, tar = "", None
    try:
        for member in members:
            if tar is None or member.shard != shard:
                if tar is not None:
                    tar.close()
                shard = member.shard
                tar = (root / shard).open("rb")
            tar.seek(member.offset)
            yield read_member(tar.read(member.length), member.format)
    except BadPicture as error:
        raise ShardsError(f"{root / shard}: a picture in it {error}; see: python -m shards verify {root}") from error
    except OSError as error:
        raise ShardsError(f"{root / shard}: {error.strerror}, but the index names it") from error
    finally:
        if tar is not None:
            tar.close()
