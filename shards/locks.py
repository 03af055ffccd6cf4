"""Who may write in a DIR: one process at a time, with a folder for its temporary files."""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Generator
from pathlib import Path

from shards.index import ShardsError

_WORK = ".work"


@contextlib.contextmanager
def exclusive(root: Path) -> Generator[Path]:
    """Holds DIR for this process and yields an empty folder for temporary files, which goes with the lock.

    What a killed process left there is removed.

    Raises:
        ShardsError: another process holds it, or it can't be made or written.
    """
    work = (root / _WORK).absolute()  # aria2 runs with another working directory
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock_file = (work / "lock").open("a+")
    except OSError as error:
        raise ShardsError(
            f"{root} can't be made or written ({error.strerror}); give a folder of your own, or a new name"
        ) from error
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file between our opening and our locking it.
            free = os.fstat(lock.fileno()).st_ino == (work / "lock").stat().st_ino
        except OSError:
            free = False
        if not free:
            lock.seek(0)
            raise ShardsError(
                f"{root} is in use by {lock.read().strip() or 'another process'}; wait until it has ended"
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        for left_over in work.iterdir():
            if left_over.is_dir():
                shutil.rmtree(left_over, ignore_errors=True)  # its daemon may still live for a second
        # Its name is of this process: a daemon that outlives a killed one for a second writes elsewhere.
        folder = work / f"{socket.gethostname()}-{os.getpid()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(work, ignore_errors=True)
