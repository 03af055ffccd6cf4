"""A lock on a folder DIR, or on one partition of it, with a folder for the holder's temporary files.

A lock is a file in DIR/.work that its holder keeps locked with flock. The kernel releases a flock however the process
ends. That is enough on one machine, but a network file system may apply flock within a node only, or keep the flock of
a node that has lost power. So the holder also rewrites its file every few seconds. Another node ignores the flock: it
considers a lock held while the file changes, and expired when the file stops changing.

A holder may be suspended until its lock has expired, and resume later. It must not publish a file then, because its
successor may have published a newer one. Every published file is renamed out of the holder's work folder. So the
successor replaces that folder by a file, and a holder that finds its lock taken does the same: later renames fail.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.files import is_full_disk
from shards.storage import lock_holder
from shards.storage.lock_holder import LOCK_SUFFIX, WHOLE, Heartbeat, LockHolder

WORK_FOLDER = ".work"  # relative to DIR
_HEARTBEAT_SECONDS = 2.0  # seconds between two heartbeats
_EXPIRY_SECONDS = 14.0  # seconds without a heartbeat after which another node's lock is free; a busy server delays some
_ATTEMPTS = 100  # a process that releases the lock may remove the file that was just opened


@contextlib.contextmanager
def exclusive_lock(root: Path, partition: Partition | None = None, plan: str = "") -> Generator[Path]:
    """Lock DIR, or one partition of it, and yield an empty folder for temporary files, which is removed at the end.

    Removes what killed processes left: of this partition, or of all partitions where all of DIR is locked. The lock on
    all of DIR excludes every partition. Partitions exclude those of another count or plan; `plan` is what DIR is made
    from, in any form.

    Raises:
        ShardsError: another process holds the lock or took it over; or DIR can't be created or written.
    """
    lock = _FileLock(root, partition, plan)
    try:  # an interrupt may arrive at any moment from here on
        lock.acquire()
        try:
            yield lock.create_work_folder()
        except (OSError, ShardsError) as error:
            successor = lock.find_successor()
            if successor is None:
                raise
            raise ShardsError(
                f"{root}: {successor} took over while this process was suspended; its finished blocks "
                "are kept, and the other process continues"
            ) from error
    finally:
        lock.release()


def find_lock_holder(root: Path) -> str | None:
    """Return the process that holds a lock on DIR, or None; wait for the expiry of other nodes' locks."""
    held = _find_held((root / WORK_FOLDER).glob("*" + LOCK_SUFFIX), LockHolder.current("").host)
    return held[1].process if held else None


class _FileLock:
    """The lock on DIR or a partition of it, from `acquire` to `release`."""

    def __init__(self, root: Path, partition: Partition | None, plan: str) -> None:
        self._root = root
        self._work = (root / WORK_FOLDER).absolute()  # aria2 runs with another working directory
        self._holder = LockHolder.current(plan)
        self._name = lock_holder.lock_name(partition)
        self._path = self._work / (self._name + LOCK_SUFFIX)
        self._folder = self._work / self._name / self._holder.name
        self._file = -1
        self._is_acquired = False
        self._heartbeat = Heartbeat(self._renew, _HEARTBEAT_SECONDS)

    def acquire(self) -> None:
        """Acquire the lock and write the first heartbeat, or raise ShardsError."""
        try:
            self._file = next((file for file in map(self._try_open, range(_ATTEMPTS)) if file is not None), -1)
            if self._file < 0:
                raise self._refuse(self._path, LockHolder())
            os.ftruncate(self._file, 0)  # a dead process may have left a longer record
            self._write(0)
        except OSError as error:
            if is_full_disk(error):
                error.filename = str(self._root)
                raise
            raise ShardsError(
                f"{self._root} can't be made or written ({error.strerror}); give a folder that you can write to"
            ) from error
        # Each process writes its own lock before it looks for others. Of two that conflict both may be refused, but
        # both can never go on.
        held = _find_held(filter(self._conflicts, self._work.glob("*" + LOCK_SUFFIX)), self._holder.host)
        if held:
            raise self._refuse(*held)
        self._is_acquired = True

    def _try_open(self, attempt: int) -> int | None:
        """Return the lock's open file, or None where it was removed or replaced meanwhile; raises ShardsError."""
        try:
            self._work.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):  # another process removed the folder during this call
            if attempt == _ATTEMPTS - 1:  # no: a file has its name, or it can't be made
                raise
            return None
        file, is_kept = -1, False
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            has_flock = _try_flock(file, fcntl.LOCK_EX)
            holder = LockHolder.decode(os.pread(file, 4096, 0))
            is_foreign = holder.host not in {"", self._holder.host}
            if _find_held([self._path], self._holder.host) if is_foreign else not has_flock:
                raise self._refuse(self._path, holder)
            if not os.path.samestat(os.fstat(file), self._path.stat()):
                return None
            is_kept = not is_foreign
            # A holder on another node may still have its file open, and resume. It can't write into a new file.
            return file if is_kept else self._replace()
        except FileNotFoundError:  # a process that released the lock removed the file or the folder
            return None
        finally:
            if file >= 0 and not is_kept:
                os.close(file)

    def _replace(self) -> int:
        draft = self._work / self._holder.name
        file = os.open(draft, os.O_RDWR | os.O_CREAT, 0o644)
        _try_flock(file, fcntl.LOCK_EX)
        os.pwrite(file, self._holder.encode(0), 0)
        draft.replace(self._path)
        return file

    def _conflicts(self, path: Path) -> bool:
        """Check whether another lock, if it is held, excludes this one."""
        content = _read(path)
        if path == self._path or content is None:
            return False
        return lock_holder.locks_conflict(self._name, self._holder, path.stem, LockHolder.decode(content))

    def _refuse(self, path: Path, holder: LockHolder) -> ShardsError:
        return lock_holder.lock_refused(str(self._root), self._name, path.stem, holder)

    def create_work_folder(self) -> Path:
        """Remove what dead processes left, creates the work folder and start the heartbeat."""
        for path in self._work.iterdir():
            if path.is_dir() and self._name in {WHOLE, path.name}:
                for folder in path.iterdir():
                    _fence(folder)
            elif not path.is_dir() and self._name == WHOLE and path != self._path:
                path.unlink(missing_ok=True)
        self._folder.mkdir(parents=True)
        self._heartbeat.start()
        return self._folder

    def _renew(self, beat: int) -> bool:
        if self.find_successor() is not None:
            _fence(self._folder)
            return False
        self._write(beat)
        return True

    def _write(self, beat: int) -> None:
        os.pwrite(self._file, self._holder.encode(beat), 0)
        os.fsync(self._file)  # other nodes must see it now

    def find_successor(self) -> str | None:
        """Return the process that took the lock from this one, or None."""
        for path in (self._path, self._work / (WHOLE + LOCK_SUFFIX)):  # who locks all of DIR removes other locks
            # Opened again, because a network file system asks its server for the content only then.
            content = _read(path)
            if content is not None:
                holder = LockHolder.decode(content)
                return None if holder == self._holder else holder.process
        return "a process that removed the lock"

    def release(self) -> None:
        """Remove the work folder and then the lock, if they still belong to this process."""
        self._heartbeat.stop()
        with contextlib.suppress(OSError):
            if self.find_successor() is None:
                for path in self._work.iterdir():
                    if self._is_acquired and path.is_dir() and self._name in {WHOLE, path.name}:
                        shutil.rmtree(path, ignore_errors=True)
                self._path.unlink()
            self._work.rmdir()  # fails where other processes use it
        if self._file >= 0:
            os.close(self._file)


def _try_flock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _find_held(paths: Iterable[Path], host: str) -> tuple[Path, LockHolder] | None:
    """Return the first lock that turns out to be held, and its holder; watch those of other nodes until expiry."""
    foreign: dict[Path, bytes] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            content = file.read()
            holder = LockHolder.decode(content)
            if holder.host not in {"", host}:
                foreign[path] = content
            elif not _try_flock(file.fileno(), fcntl.LOCK_SH):  # shared, so that others can check at the same time
                return path, holder
    return lock_holder.find_renewed(foreign, _read, _HEARTBEAT_SECONDS, _EXPIRY_SECONDS)


def _fence(folder: Path) -> None:
    """Replace a former holder's work folder by a file: a live holder can't publish, and aria2 can't recreate it."""
    for number in range(_ATTEMPTS):
        if not folder.is_dir():
            return
        removed = folder.with_name(f".{folder.name}-{number}")
        folder.rename(removed)  # moves all of it at once, whatever is being written
        with contextlib.suppress(FileExistsError):
            folder.touch(exist_ok=False)
        shutil.rmtree(removed, ignore_errors=True)
