"""The stage: a folder on this machine with the files of a DIR that is under a URL, except most of its tars."""

import contextlib
import hashlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.format.index import INDEX_FILE
from shards.format.outcomes import OUTCOMES_FILE
from shards.object_store import ObjectStore
from shards.storage.file_lock import WORK_FOLDER

JOINED_FILES = (INDEX_FILE, OUTCOMES_FILE)  # the outcomes are written last: if they are there, their index is too
TRANSFERS = 16  # small objects that are transferred at a time


class Stage:
    """A stage and its URL: copies single files between them, and records which objects are equal to their files.

    Attributes:
        root: the folder.
        names: the names of the objects.
        tars: sizes in bytes of the tars under the URL, by name.
    """

    def __init__(self, root: Path, objects: ObjectStore) -> None:
        self.root = root
        self._objects = objects
        self.names: set[str] = set()
        self.tars: dict[str, int] = {}
        self._digests: dict[str, str] = {}  # of the objects, except tars

    def refresh(self) -> None:
        """List the objects under the URL."""
        sizes = self._objects.list()
        self.names = {name for name in sizes if not name.startswith(f"{WORK_FOLDER}/")}
        self.tars = {name: size for name, size in sizes.items() if name in self.names and name.endswith(".tar")}

    def download(self, names: Iterable[str]) -> set[str]:
        """Download small objects, and return the names of those that the stage had otherwise or not at all."""

        def download(name: str) -> str | None:
            content, path = self._objects.read(name), self.root / name
            if content is None:
                return None
            self._digests[name] = _hash(content)
            if path.is_file() and path.read_bytes() == content:
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            return name

        with ThreadPoolExecutor(TRANSFERS) as pool:
            return {name for name in pool.map(download, sorted(names)) if name}

    def upload(self, name: str) -> None:
        """Upload a file."""
        self._objects.put(self.root / name, name)
        self.mark_uploaded(name)

    def mark_uploaded(self, name: str) -> None:
        """Record that an object is equal to its file."""
        self.names.add(name)
        path = self.root / name
        if name.endswith(".tar"):
            self.tars[name] = path.stat().st_size
        else:
            self._digests[name] = _hash(path.read_bytes())

    def is_uploaded(self, name: str) -> bool:
        """Check whether a small object is equal to its file, as far as is known."""
        return _hash((self.root / name).read_bytes()) == self._digests.get(name)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, in order."""
        for name in names:
            self._objects.remove([name])
            self.names.discard(name)
            self._digests.pop(name, None)


def clear_stage(root: Path, keep: Collection[str] | None = None) -> None:
    """Remove DIR's files from a stage, except those named in `keep`; without it, everything but the locks."""
    for path in sorted(root.rglob("*"), reverse=True):  # files before their folders
        name = path.relative_to(root).as_posix()
        if name.partition("/")[0] == WORK_FOLDER:
            continue
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif keep is None or (name not in keep and ("/" in name or name in JOINED_FILES)):
            path.unlink()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
