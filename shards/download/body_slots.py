"""Files in memory for the response bodies of active downloads; a complete body is appended to the file of its block.

A file for each body would cost more processor time than its download: for each new file, ext4 checks the inodes of all
files that were removed in the last minutes, and aria2 syncs it. These files are reused, and a sync does nothing in
memory. They have no name in any folder, so a kill leaves none behind.
"""

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple

from shards.errors import ShardsError

_DESCRIPTORS = Path("/proc/self/fd")
_FILES_PER_SLOT, _OTHER_FILES = 4, 256  # that aria2 may have open: a slot twice, a connection, and reserve


class StoredBody(NamedTuple):
    """A response body as a part of a file."""

    path: Path
    offset: int
    length: int

    def read_bytes(self) -> bytes:
        """Return the body."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


class BodySlots:
    """A fixed number of files, each of which is empty or belongs to one download."""

    def __init__(self, count: int, folder: Path) -> None:
        """Create `count` empty files: in memory, or in `folder` on a system without files in memory.

        Raises:
            ShardsError: this process may not open as many files.
        """
        _allow_open_files(_FILES_PER_SLOT * count + _OTHER_FILES)
        self._files: list[int] = []  # descriptors
        self.folder = _DESCRIPTORS if _has_files_in_memory() else folder  # as seen by aria2, which inherits the files
        self._is_in_memory = self.folder == _DESCRIPTORS
        try:
            for slot in range(count):
                self._files.append(self._create(slot))
        except OSError as error:
            self.close()
            remedy = "lower it, or allow more open files with ulimit -n"
            raise ShardsError(f"connections is {count}: {error.strerror}; {remedy}") from error
        self._empty = list(range(count))

    def _create(self, slot: int) -> int:
        if self._is_in_memory:
            return os.memfd_create(f"response body {slot}")
        self.folder.mkdir(exist_ok=True)
        return os.open(self.folder / str(slot), os.O_RDWR | os.O_CREAT, 0o600)

    @property
    def inherited(self) -> list[int]:
        """Return the descriptors that aria2 must inherit."""
        return self._files if self._is_in_memory else []

    def take(self) -> int:
        """Return an empty slot; pass it to `store` or `empty` after the download."""
        return self._empty.pop()

    def name(self, slot: int) -> str:
        """Return the name of the slot's file in `folder`."""
        return str(self._files[slot]) if self._is_in_memory else str(slot)

    def store(self, slot: int, path: Path) -> StoredBody:
        """Append the slot's body to a file, and empty the slot."""
        body = os.pread(self._files[slot], os.fstat(self._files[slot]).st_size, 0)
        with path.open("ab") as file:
            stored = StoredBody(path, file.tell(), len(body))
            file.write(body)
        self.empty(slot)
        return stored

    def empty(self, slot: int) -> None:
        """Discard the slot's body."""
        os.ftruncate(self._files[slot], 0)
        self._empty.append(slot)

    def close(self) -> None:
        """Discard all slots."""
        for descriptor in self._files:
            os.close(descriptor)
        self._files.clear()


def _has_files_in_memory() -> bool:
    """Whether this system has files in memory that a process can open by the name of their descriptor."""
    if sys.platform != "linux":
        return False
    with contextlib.suppress(OSError):
        descriptor = os.memfd_create("test")
        try:
            os.close(os.open(_DESCRIPTORS / str(descriptor), os.O_RDWR))
            return True
        finally:
            os.close(descriptor)
    return False


def _allow_open_files(count: int) -> None:
    """Raise this process's limit of open files to `count` if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
