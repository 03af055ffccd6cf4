"""A DIR that is only read, whole: where it is, or, of a URL, a copy of it that holds a tar only while that is read."""

import contextlib
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards import leases, opening
from shards.blocks import Block
from shards.index import ShardsError
from shards.objects import Objects

_TRANSFERS = 16  # small objects at once


class Layout:
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


class _Copy(Layout):
    """A URL's objects as files; for a tar that isn't being read stands a file of its size that takes no room."""

    def __init__(self, objects: Objects, root: Path) -> None:
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
def laid_out(out: Path, base: Path | None = None) -> Generator[Layout]:
    """Yields a DIR to read.

    Args:
        out: DIR, or its URL.
        base: folder of the stages, for the copy.

    Raises:
        ShardsError: somebody is at work there, or it can't be reached.
    """
    root, url = opening.root_of(out, None, base), opening.url_of_store(out)
    if url is None:
        yield Layout(root)
        return
    objects = Objects(url)
    objects.list()  # refuses what can't be reached before anything is made
    holder = leases.find_holder(objects)
    if holder:
        raise ShardsError(f"{url} is in use by {holder}; verify it once that has ended")
    root.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f"{root.name}-", dir=root.parent) as folder,
        opening.told_of(Path(folder), url),
    ):
        copy = _Copy(objects, Path(folder))
        copy.lay()
        yield copy
