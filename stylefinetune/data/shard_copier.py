"""Copies the shards that an index names to another folder, each whole or not at all, and each only once.

A copy is written beside, checked, synced, given its source's time of change, and renamed last. So whatever has the
final name is whole, and as long as its size and time are the source's it is used again: nothing is copied at a second
start, and only the rest after a kill.

Every picture is held against the index's SHA-256 as it streams by. A checksum of whole files would have to be made of
what was read, and so could not tell what was read wrongly. A picture that isn't the index's is read once more: if it
reads the same again the source has it so, and it is copied as it is, since what a run makes of it must not depend on
where it is read. The system's own word that a file is on the disk is believed.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow.compute as pc
from rich.filesize import decimal

from shards.format import sync_path
from shards.format.index import ShardIndex
from stylefinetune.errors import UserError

LOCK, PART = ".lock", ".part"
CHUNK_BYTES = 1 << 23  # bytes read at a time
WAIT = 0.1  # seconds between two looks at the lock


class ShardCopier:
    """What one process does for its node: whichever has the lock copies all that isn't there.

    Args:
        index: says what the shards hold.
        shards: their names.
        folder: where the copies lie.

    Attributes:
        done: every copy is there and whole.
        has_lock: it is this process that copies.
        copied: bytes so far.
        total: bytes that it has to copy.
    """

    def __init__(self, index: ShardIndex, shards: Iterable[str], folder: Path) -> None:
        self.done = self.has_lock = False
        self.copied = self.total = 0
        self._index = index
        self._shards = sorted(set(shards))
        self._folder = folder
        self._steps = self._run()

    def work(self, seconds: float) -> None:
        """Goes on for about so long, or until it is done.

        Raises:
            UserError: the disk is too small, something can't be read or written, or a shard changes meanwhile.
        """
        end = time.monotonic() + seconds
        try:
            for _ in self._steps:
                if time.monotonic() >= end:
                    return
        except OSError as error:
            where = f"{error.filename}: " if error.filename else f"the copy in {self._folder} failed: "
            raise UserError(f"{where}{error.strerror}; see data.stage_dir") from error
        self.done = True

    def close(self) -> None:
        """Leaves off, and lets go of the lock; what is whole stays."""
        self._steps.close()

    def _run(self) -> Generator[None]:
        if not self._find_missing():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / LOCK, os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            while not _try_flock(lock):
                time.sleep(WAIT)
                yield
            self.has_lock = True
            for left_over in self._folder.rglob(f"*{PART}"):
                left_over.unlink()
            missing = self._find_missing()
            self._check_room(sum(missing.values()))
            differing: list[str] = []
            for name in missing:
                yield from self._copy(name, differing)
            if differing:
                _warn(
                    f"{len(differing)} pictures aren't those that the index names, the first of them {differing[0]}; "
                    f"copied as they are: see python -m shards verify {self._index.root}"
                )
        finally:
            self.has_lock = False
            os.close(lock)

    def _find_missing(self) -> dict[str, int]:
        """Returns the sizes of the shards of which there is no whole copy."""
        missing: dict[str, int] = {}
        for name in self._shards:
            source, copy = (self._index.root / name).stat(), None
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                copy = (self._folder / name).stat()
            if copy is None or _version(copy) != _version(source):
                missing[name] = source.st_size
            if copy and name in missing and self.has_lock:
                _warn(f"{self._folder / name} has changed since it was copied, or its source has; copying it again")
        return missing

    def _check_room(self, needed: int) -> None:
        self.total = needed
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise UserError(
                f"{self._folder} has {decimal(free)} free and the shards need {decimal(needed)}; make room, or give "
                "data.stage_dir a larger disk, or leave it out and read in place, with data.shuffle_window"
            )

    def _copy(self, name: str, differing: list[str]) -> Generator[None]:
        """Copies one shard, and notes the pictures that aren't the index's."""
        source, target = self._index.root / name, self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART)
        try:
            with source.open("rb", CHUNK_BYTES) as reader, part.open("wb", CHUNK_BYTES) as writer:
                before = os.fstat(reader.fileno())
                odd: list[tuple[dict[str, Any], str]] = []
                for picture in self._pictures(name):
                    yield from self._pass(reader, writer, picture["offset"] - reader.tell())
                    digest = hashlib.sha256()
                    yield from self._pass(reader, writer, picture["length"], digest)
                    if digest.hexdigest() != picture["sha256"]:
                        odd.append((picture, digest.hexdigest()))
                yield from self._pass(reader, writer, before.st_size - reader.tell())
                writer.flush()
                for picture, digest in odd:
                    if _is_so(picture, digest, reader, writer, source):
                        differing.append(f"{source}: {picture['key']}")
                os.utime(writer.fileno(), ns=(time.time_ns(), before.st_mtime_ns))
                os.fsync(writer.fileno())
                if _version(os.fstat(reader.fileno())) != _version(before):
                    raise _changed(source)
            part.replace(target)
            sync_path(target.parent)
        finally:
            part.unlink(missing_ok=True)

    def _pictures(self, name: str) -> list[dict[str, Any]]:
        """Returns what the index says of a shard's pictures, from front to back."""
        rows = self._index.table.filter(pc.field("shard") == name).select(["key", "offset", "length", "sha256"])
        return rows.sort_by("offset").to_pylist()

    def _pass(self, reader: IO[bytes], writer: IO[bytes], count: int, digest: Any = None) -> Generator[None]:  # noqa: ANN401
        """Passes on so many bytes."""
        while count > 0:
            piece = _read(reader, min(count, CHUNK_BYTES))
            writer.write(piece)
            if digest:
                digest.update(piece)
            count -= len(piece)
            self.copied += len(piece)
            yield


def _read(reader: IO[bytes], count: int) -> bytes:
    try:
        piece = reader.read(count)
    except OSError as error:
        raise UserError(f"{reader.name} can't be read: {error.strerror}") from error
    if not piece:
        raise _changed(Path(reader.name))
    return piece


def _is_so(picture: dict[str, Any], digest: str, reader: IO[bytes], writer: IO[bytes], source: Path) -> bool:
    """Says whether a picture that isn't the index's is so in its shard; one that was read wrongly is put right."""
    offset, length = picture["offset"], picture["length"]
    os.posix_fadvise(reader.fileno(), offset, length, os.POSIX_FADV_DONTNEED)  # not from memory again
    body = os.pread(reader.fileno(), length, offset)
    again = hashlib.sha256(body).hexdigest()
    if again == picture["sha256"]:
        os.pwrite(writer.fileno(), body, offset)
    elif again != digest:
        raise UserError(f"{source}: {picture['key']} reads differently each time; is its disk or network sound?")
    return again == digest


def _changed(source: Path) -> UserError:
    return UserError(f"{source} changed while it was copied; start again once nobody writes it")


def _version(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _try_flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _warn(line: str) -> None:
    sys.stderr.write(f"warning: {socket.gethostname()}: {line}\n")
