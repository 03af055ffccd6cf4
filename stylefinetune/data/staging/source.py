"""Reads the shards that are copied: those of a folder, or the objects of a store."""

import functools
import io
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

from shards.format import ObjectStore, ShardsError, StoredObject
from stylefinetune.errors import UserError

SOURCE_FILE = "source.json"  # in a folder of copies: the URL that they come from
CHUNK_BYTES = 1 << 24

Version: TypeAlias = tuple[int, int]  # bytes, and nanoseconds at which it was changed


class ShardSource(Protocol):
    """Where the shards of an index come from."""

    is_remote: bool  # whether shards can't be read in place

    def name(self, shard: str) -> str:
        """Return a shard's path or URL, for messages."""
        ...

    def version(self, shard: str) -> Version | None:
        """Return the version of a shard; None if it is missing."""
        ...

    def open(self, shard: str) -> BinaryIO:
        """Open a shard for reading from front to back."""
        ...

    def read_again(self, shard: str, offset: int, length: int) -> bytes:
        """Read a part of a shard from the disk or the store, not from a cache."""
        ...

    def check_unchanged(self, shard: str, version: Version) -> None:
        """Check that a shard still has the version that it had when it was opened."""
        ...


class ShardFolder:
    """Shards in a folder."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def name(self, shard: str) -> str:
        """Return the shard's path."""
        return str(self._root / shard)

    def version(self, shard: str) -> Version | None:
        """Return the size and the modification time of the file."""
        return file_version(self._root / shard)

    def open(self, shard: str) -> BinaryIO:
        """Open the file."""
        return (self._root / shard).open("rb", CHUNK_BYTES)

    def read_again(self, shard: str, offset: int, length: int) -> bytes:
        """Read from the disk, not from the page cache."""
        with (self._root / shard).open("rb", 0) as file:
            os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_DONTNEED)
            return os.pread(file.fileno(), length, offset)

    def check_unchanged(self, shard: str, version: Version) -> None:
        """Compare the size and the time of the file.

        Raises:
            UserError: they differ.
        """
        if self.version(shard) != version:
            raise changed_error(self.name(shard))


class ShardStore:
    """Shards in an object store, which is listed once.

    Raises:
        UserError: the store can't be reached.
    """

    is_remote = True

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: tuple[int, ObjectStore] | None = None
        try:
            self.listed: dict[str, StoredObject] = self._objects.list_objects()
        except ShardsError as error:
            raise UserError(f"data.shards: {error}") from error

    @property
    def _objects(self) -> ObjectStore:
        """The client of the store, which a forked process can't share with its parent."""
        if self._client is None or self._client[0] != os.getpid():
            advice = "complete copies are kept; run the same command to continue"
            self._client = os.getpid(), ObjectStore(self.url, advice)
        return self._client[1]

    def name(self, shard: str) -> str:
        """Return the shard's URL."""
        return f"{self.url}/{shard}"

    def version(self, shard: str) -> Version | None:
        """Return the size and the time of the object when the store was listed."""
        found = self.listed.get(shard)
        return (found.size, found.mtime_ns) if found else None

    def open(self, shard: str) -> BinaryIO:
        """Read the object in large parts."""
        return cast("BinaryIO", io.BufferedReader(_ObjectFile(self, shard, self.listed[shard].size), CHUNK_BYTES))

    def read_again(self, shard: str, offset: int, length: int) -> bytes:
        """Request a part of an object.

        Raises:
            UserError: the store fails, or sends less.
        """
        try:
            content = self._objects.read_range(shard, offset, offset + length) if length else b""
        except ShardsError as error:
            raise UserError(f"data.shards: {error}") from error
        if len(content) != length:
            raise changed_error(self.name(shard))
        return content

    def check_unchanged(self, shard: str, version: Version) -> None:
        """Ask the store for the size and the time of the object.

        Raises:
            UserError: they differ, or the store fails.
        """
        try:
            found = self._objects.find_object(shard)
        except ShardsError as error:
            raise UserError(f"data.shards: {error}") from error
        if found is None or (found.size, found.mtime_ns) != version:
            raise changed_error(self.name(shard))

    def download(self, name: str, path: Path) -> None:
        """Download an object to a file.

        Raises:
            UserError: the store fails, or sends less.
        """
        try:
            self._objects.get(name, path)
        except ShardsError as error:
            raise UserError(f"data.shards: {error}") from error
        if path.stat().st_size != self.listed[name].size:
            raise changed_error(self.name(name))


class _ObjectFile(io.RawIOBase):
    """An object as a file that is read from front to back."""

    def __init__(self, store: ShardStore, shard: str, size: int) -> None:
        super().__init__()
        self._store = store
        self._shard = shard
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 -- collections.abc.Buffer needs Python 3.12
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._position)
        view[:count] = self._store.read_again(self._shard, self._position, count)
        self._position += count
        return count


@functools.cache
def shard_source(root: Path) -> ShardSource:
    """Return the source of the shards of the index in `root`: the folder itself, or the store that it has copies of.

    Raises:
        UserError: the store can't be reached.
    """
    path = root / SOURCE_FILE
    if not path.is_file():
        return ShardFolder(root)
    return ShardStore(json.loads(path.read_text(encoding="utf-8"))["url"])


def file_version(path: Path) -> Version | None:
    """Return the version of a file; None if there is no such file."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_size, stat.st_mtime_ns


def changed_error(name: str) -> UserError:
    """Return the error for a shard that changes while it is read."""
    return UserError(f"{name} changed while it was copied; start again once no process writes to it")
