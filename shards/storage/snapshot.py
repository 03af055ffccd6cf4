"""A complete DIR for reading: a folder, or a temporary copy of a URL that holds one tar at a time."""

import contextlib
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.errors import ShardsError
from shards.location import object_store_url
from shards.object_store import ObjectStore
from shards.storage.object_lease import find_lease_holder
from shards.storage.session import errors_naming_url, local_root
from shards.storage.shard_dir import Block
from shards.storage.stage import TRANSFERS


class Snapshot:
    """A DIR in the folder `root`; `name` is the path or URL that the user gave, for messages."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = root
        self.name = name or str(root)

    @contextlib.contextmanager
    def local_tar(self, block: Block) -> Generator[None]:
        """Provide the block's tar, if it exists, in the folder for the duration of the context."""
        del block
        yield


class _RemoteSnapshot(Snapshot):
    """A copy of a URL's objects, in which a sparse file of equal size represents each tar that isn't being read."""

    def __init__(self, objects: ObjectStore, root: Path) -> None:
        super().__init__(root, objects.url)
        self._objects = objects
        self._sizes = objects.list()
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(self._copy, self._sizes))

    def _copy(self, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".tar"):
            _write_sparse(path, self._sizes[name])
        else:
            self._objects.get(name, path)

    @contextlib.contextmanager
    def local_tar(self, block: Block) -> Generator[None]:
        if block.shard not in self._sizes:
            yield
            return
        path = self.root / block.shard
        self._objects.get(block.shard, path)
        try:
            yield
        finally:
            _write_sparse(path, self._sizes[block.shard])


def _write_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@contextlib.contextmanager
def open_snapshot(out: Path, base: Path | None = None) -> Generator[Snapshot]:
    """Yield a DIR, or a copy of its URL in `base`, the folder of the stages, for reading.

    Raises:
        ShardsError: another process writes there, or it can't be reached.
    """
    root, url = local_root(out, None, base), object_store_url(out)
    if url is None:
        yield Snapshot(root)
        return
    objects = ObjectStore(url)
    objects.list()  # fails if the URL can't be reached, before a folder is created
    holder = find_lease_holder(objects)
    if holder:
        raise ShardsError(f"{url} is in use by {holder}; verify it once that has ended")
    root.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f"{root.name}-", dir=root.parent) as folder,
        errors_naming_url(Path(folder), url),
    ):
        yield _RemoteSnapshot(objects, Path(folder))
