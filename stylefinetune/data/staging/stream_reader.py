"""Opens the copies of a stream of shards, and waits for those that are not complete yet."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from stylefinetune.data.staging.shard_copier import LOCK_FILE
from stylefinetune.data.staging.stream import FAILURE_FILE, PREFIX
from stylefinetune.errors import DataError

_POLL_SECONDS = 0.05
_MAX_UNLOCKED = 600  # polls in a row in which no process copies; one starts soon after the decoding processes


def open_shard(folder: Path, name: str) -> int:
    """Open a shard for reading, and return its descriptor; wait for it if `folder` is that of a stream.

    Raises:
        DataError: the shard can't be copied.
        OSError: the file can't be opened.
    """
    unlocked = 0
    while True:
        try:
            return os.open(folder / name, os.O_RDONLY)
        except FileNotFoundError:
            if not folder.name.startswith(PREFIX):
                raise
        failure = folder / FAILURE_FILE
        if failure.is_file():
            raise DataError(failure.read_text(encoding="utf-8"))
        unlocked = 0 if _is_locked(folder) else unlocked + 1
        if unlocked > _MAX_UNLOCKED:
            raise DataError(f"the process that copies the shards to {folder} has died; run the same command again")
        time.sleep(_POLL_SECONDS)


def _is_locked(folder: Path) -> bool:
    """Return whether a process copies to the folder of a stream."""
    with contextlib.suppress(FileNotFoundError), (folder / LOCK_FILE).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def close_removed(folder: Path, files: dict[int, int]) -> None:
    """Close those of the open files, descriptors by number, that a stream has removed: until then they take space."""
    if folder.name.startswith(PREFIX):
        for number in [number for number, descriptor in files.items() if os.fstat(descriptor).st_nlink == 0]:
            os.close(files.pop(number))
