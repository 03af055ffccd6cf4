"""A DIR that is only read, whole: where it is, or, of a URL, a copy of it that holds a tar only while that is read."""

import contextlib
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.errors import ShardsError
from shards.location import object_store_url
from shards.storage.object_lease import find_lease_holder
from shards.storage.object_store import ObjectStore
from shards.storage.session import errors_naming_url, local_root
from shards.storage.shard_dir import Block

_TRANSFERS = 16  # small objects at once


class Snapshot:
    """A DIR as it lies in a folder.

    Attributes:
        root: the folder.
        name: what its user calls it.
    """

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = root
        self.name = name or str(root)

    @contextlib.contextmanager
    def reading(self, block: Block) -> Generator[None]:
        """Has the block's tar in the folder, if there is one, for as long as it is read."""
        del block
        yield


class _RemoteSnapshot(Snapshot):
    """A URL's objects as files; for a tar that isn't being read stands a file of its size that takes no room."""

    def __init__(self, objects: ObjectStore, root: Path) -> None:
        super().__init__(root, objects.url)
        self._objects = objects
        self._sizes = objects.list()

    def lay(self) -> None:
        """Makes all files."""
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            list(pool.map(self._lay, self._sizes))

    def _lay(self, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".tar"):
            _empty(path, self._sizes[name])
        else:
            self._objects.get(name, path)

    @contextlib.contextmanager
    def reading(self, block: Block) -> Generator[None]:
        """Has the block's tar in the folder, if there is one, for as long as it is read."""
        if block.shard not in self._sizes:
            yield
            return
        path = self.root / block.shard
        self._objects.get(block.shard, path)
        try:
            yield
        finally:
            _empty(path, self._sizes[block.shard])


def _empty(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@contextlib.contextmanager
def open_snapshot(out: Path, base: Path | None = None) -> Generator[Snapshot]:
    """Yields a DIR to read.

    Args:
        out: DIR, or its URL.
        base: folder of the stages, for the copy.

    Raises:
        ShardsError: somebody is at work there, or it can't be reached.
    """
    root, url = local_root(out, None, base), object_store_url(out)
    if url is None:
        yield Snapshot(root)
        return
    objects = ObjectStore(url)
    objects.list()  # refuses what can't be reached before anything is made
    holder = find_lease_holder(objects)
    if holder:
        raise ShardsError(f"{url} is in use by {holder}; verify it once that has ended")
    root.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f"{root.name}-", dir=root.parent) as folder,
        errors_naming_url(Path(folder), url),
    ):
        copy = _RemoteSnapshot(objects, Path(folder))
        copy.lay()
        yield copy
