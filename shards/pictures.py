"""Reads kept pictures back out of the shards."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from shards.images import BadPicture, Pixels, read_member
from shards.index import ShardsError


class Member(NamedTuple):
    """Where a picture lies: columns of `index.SCHEMA`."""

    shard: str
    offset: int
    length: int
    format: str


def members_of(table: pa.Table) -> list[Member]:
    """Returns where the pictures of an index lie, row by row."""
    columns = [table.column(name).to_pylist() for name in Member._fields]
    return [Member(*values) for values in zip(*columns, strict=True)]


def read_pictures(root: Path, members: Iterable[Member]) -> Iterator[Pixels]:
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
