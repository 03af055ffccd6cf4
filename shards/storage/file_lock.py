"""Who may write in a DIR: one process at a time, or one per partition, each with a folder for its temporary files.

A lock is a file under DIR/.work that its process holds with flock, which the kernel releases however a process ends.
On one machine that is all there is to it. On a network file system it is not: flock may hold within a node only, so
that two nodes get the same lock, or a node that lost its power may go on holding one. So the holder also rewrites its
file every few seconds, and another node judges by that alone: a file that changes is held, one that doesn't is not.

A process may stand still for longer and come back: it must not publish what somebody else has begun anew. All that it
publishes it renames out of its work folder, so whoever takes the lock over puts a file in that folder's place, and a
holder that finds its lock gone does so itself. What it tries from then on fails.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path

from shards.config.schema import Partition
from shards.errors import ShardsError

WORK_FOLDER = ".work"  # relative to DIR
_WHOLE = "whole"
_SUFFIX = ".lock"
_HEARTBEAT_SECONDS = 2.0  # seconds between two signs of life
_EXPIRY_SECONDS = (
    14.0  # seconds without one after which another node's lock is free: a busy file server may delay several
)
_TRIES = 100  # whoever ends may remove the file that we have just opened


@dataclasses.dataclass(frozen=True)
class LockHolder:
    """What a lock's file says.

    Attributes:
        name: of its work folder; no two processes have the same.
        host: of the node.
        process: who holds it, for messages.
        plan: what it makes DIR from.
    """

    name: str
    host: str
    process: str
    plan: str

    @classmethod
    def here(cls, plan: str) -> "LockHolder":
        """Returns this process."""
        host, number = socket.gethostname(), os.getpid()
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")
        process = f"process {number} on {host}" + (f", Slurm job {job}" if job else "")
        digest = hashlib.sha256(plan.encode()).hexdigest()
        return cls(f"{host}-{number}-{secrets.token_hex(4)}", host, process, digest)

    def encode(self, beat: int) -> bytes:
        """Returns the file's content, of the same length whatever the beat, so that one write replaces all of it."""
        return json.dumps(dataclasses.asdict(self) | {"beat": f"{beat:012}"}).encode()

    @classmethod
    def decode(cls, content: bytes) -> "LockHolder":
        """Returns who wrote a file; one that is empty, as it is for a moment, or damaged, names nobody."""
        try:
            fields = json.loads(content)
            return cls(*(str(fields[field.name]) for field in dataclasses.fields(cls)))
        except (ValueError, KeyError, TypeError):
            return cls("", "", "another process", "")


@contextlib.contextmanager
def exclusive_lock(root: Path, partition: Partition | None = None, plan: str = "") -> Generator[Path]:
    """Holds DIR, or one partition of it, for this process and yields an empty folder for temporary files.

    The folder goes with the lock. What a killed process left is removed: of this partition, or all of it where DIR is
    held as a whole. That excludes every partition; and partitions exclude those of another count or plan.

    Args:
        root: DIR.
        partition: which partition of it; None is all of DIR.
        plan: what DIR is made from, in any form; tasks that work side by side must agree on it.

    Raises:
        ShardsError: another process holds it, or took it over; or it can't be made or written.
    """
    lock = _FileLock(root, partition, plan)
    try:  # from here on: it may be interrupted at any moment
        lock.take()
        try:
            yield lock.begin()
        except (OSError, ShardsError) as error:
            taker = lock.find_taker()
            if taker is None:
                raise
            raise ShardsError(
                f"{root}: {taker} took over while this process stood still; what was packed stays, and that one goes on"
            ) from error
    finally:
        lock.release()


def find_lock_holder(root: Path) -> str | None:
    """Says who is at work in DIR, if anybody; where that may be another node, it takes seconds to tell."""
    living = _find_living((root / WORK_FOLDER).glob("*" + _SUFFIX), socket.gethostname())
    return living[1].process if living else None


class _FileLock:
    """The lock on DIR or a partition of it, from `take` to `release`."""

    def __init__(self, root: Path, partition: Partition | None, plan: str) -> None:
        self._root = root
        self._work = (root / WORK_FOLDER).absolute()  # aria2 runs with another working directory
        self._me = LockHolder.here(plan)
        self._label = f"{partition.index}-of-{partition.count}" if partition else _WHOLE
        self._path = self._work / (self._label + _SUFFIX)
        self._folder = self._work / self._label / self._me.name
        self._file = -1
        self._is_mine = False  # once no other lock excludes it
        self._ending = threading.Event()
        self._pulse = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Takes the lock and leaves a sign of life, or raises ShardsError."""
        try:
            self._file = next((file for file in map(self._try, range(_TRIES)) if file is not None), -1)
            if self._file < 0:
                raise self._refusal(self._path, LockHolder.decode(b""))
            os.ftruncate(self._file, 0)  # what a dead process left there may be longer
            self._write(0)
        except OSError as error:
            raise ShardsError(
                f"{self._root} can't be made or written ({error.strerror}); give a folder of your own, or a new name"
            ) from error
        # Each announces itself before it looks for others: two that exclude each other may both be refused, but never
        # both go on.
        rivals = [path for path in self._work.glob("*" + _SUFFIX) if self._is_rival(path)]
        living = _find_living(rivals, self._me.host)
        if living:
            raise self._refusal(*living)
        self._is_mine = True

    def _try(self, _: int) -> int | None:
        """Returns the lock's open file, or None where it has just been removed or replaced; raises ShardsError."""
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the last one to leave removed the folder
            return None
        is_mine = False
        try:
            has_flock = _try_flock(file, fcntl.LOCK_EX)
            holder = LockHolder.decode(os.pread(file, 4096, 0))
            is_foreign = holder.host not in {"", self._me.host}
            if (not is_foreign and not has_flock) or (is_foreign and _find_living([self._path], self._me.host)):
                raise self._refusal(self._path, holder)
            if os.fstat(file).st_ino != _find_inode(self._path):
                return None
            is_mine = not is_foreign
            # A foreign holder may still have its file open, and come back: a file of our own is out of its reach.
            return file if is_mine else self._replace()
        finally:
            if not is_mine:
                os.close(file)

    def _replace(self) -> int:
        draft = self._work / self._me.name
        file = os.open(draft, os.O_RDWR | os.O_CREAT, 0o644)
        _try_flock(file, fcntl.LOCK_EX)
        os.pwrite(file, self._me.encode(0), 0)
        draft.replace(self._path)
        return file

    def _is_rival(self, path: Path) -> bool:
        """Tells whether another lock excludes this one, if it is held."""
        if path == self._path or _WHOLE in {path.stem, self._label}:
            return path != self._path
        count = self._label.partition("-of-")[2]
        try:
            plan = LockHolder.decode(path.read_bytes()).plan
        except FileNotFoundError:
            return False
        return path.stem.partition("-of-")[2] != count or plan not in {self._me.plan, ""}

    def _refusal(self, path: Path, holder: LockHolder) -> ShardsError:
        partition = "" if path.stem == _WHOLE else f", partition {path.stem.replace('-of-', '/')},"
        is_other = _WHOLE not in {path.stem, self._label} and path != self._path
        reason = ", which was given another n, list or setting" if is_other else ""
        return ShardsError(f"{self._root}{partition} is in use by {holder.process}{reason}; wait until it has ended")

    def begin(self) -> Path:
        """Removes what dead processes left, makes the work folder and starts the signs of life."""
        for path in self._work.iterdir():
            if path.is_dir() and self._label in {_WHOLE, path.name}:
                for left_over in path.iterdir():
                    _bar(left_over)
            elif not path.is_dir() and self._label == _WHOLE and path != self._path:
                path.unlink(missing_ok=True)
        self._folder.mkdir(parents=True)
        self._pulse.start()
        return self._folder

    def _beat(self) -> None:
        for beat in itertools.count(1):
            if self._ending.wait(_HEARTBEAT_SECONDS):
                return
            with contextlib.suppress(OSError):  # what ails DIR is for the work to meet
                if self.find_taker() is not None:
                    _bar(self._folder)
                    return
                self._write(beat)

    def _write(self, beat: int) -> None:
        os.pwrite(self._file, self._me.encode(beat), 0)
        os.fsync(self._file)  # other nodes are to see it now

    def find_taker(self) -> str | None:
        """Returns who has the lock if this process hasn't any more."""
        for path in (self._path, self._work / (_WHOLE + _SUFFIX)):  # whoever takes the whole removes a partition's
            with contextlib.suppress(FileNotFoundError):
                # Opened anew: only then does a network file system ask its server what the file holds.
                holder = LockHolder.decode(path.read_bytes())
                return None if holder == self._me else holder.process
        return "somebody who removed the lock"

    def release(self) -> None:
        """Removes the work folder and, last, the lock, both only if they are this process's still."""
        self._ending.set()
        if self._pulse.ident:
            self._pulse.join()
        with contextlib.suppress(OSError):
            if self.find_taker() is None:
                for path in self._work.iterdir():
                    if self._is_mine and path.is_dir() and self._label in {_WHOLE, path.name}:
                        shutil.rmtree(path, ignore_errors=True)
                self._path.unlink()
            self._work.rmdir()  # unless others are at work there
        if self._file >= 0:
            os.close(self._file)


def _try_flock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _find_inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _find_living(paths: Iterable[Path], host: str) -> tuple[Path, LockHolder] | None:
    """Returns the first lock that turns out to be held, and its holder; other nodes' are watched for _SILENCE."""
    foreign: dict[Path, bytes] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            content = file.read()
            holder = LockHolder.decode(content)
            if holder.host not in {"", host}:
                foreign[path] = content
            elif not _try_flock(file.fileno(), fcntl.LOCK_SH):  # shared, so that others may look at the same time
                return path, holder
    end = time.monotonic() + _EXPIRY_SECONDS
    while foreign and time.monotonic() < end:
        time.sleep(_HEARTBEAT_SECONDS / 4)
        for path, before in list(foreign.items()):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                del foreign[path]
                continue
            if content != before:
                return path, LockHolder.decode(content)
    return None


def _bar(folder: Path) -> None:
    """Removes a work folder for good: what worked there may live on, or come back, and aria2 makes folders anew."""
    for number in range(_TRIES):
        if not folder.is_dir():
            return
        grave = folder.with_name(f".{folder.name}-{number}")
        folder.rename(grave)  # all of it in one moment, whatever is being written
        with contextlib.suppress(FileExistsError):
            folder.touch(exist_ok=False)
        shutil.rmtree(grave, ignore_errors=True)
