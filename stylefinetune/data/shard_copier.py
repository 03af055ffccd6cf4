"""Copies the shards that an index names to another folder, each atomically and only once.

A copy is written under a temporary name, checked, synced, given the modification time of its source and renamed last.
So a file with the final name is complete. It is used again while its size and time equal the source's: a second start
copies nothing, and a start after a kill copies only the rest.

The SHA-256 of every picture is compared with the index while the shard is copied. (A checksum of the file as it was
read could not detect a read error.) A picture that differs is read a second time. If the result is the same, the source
is corrupt and is copied as it is: what a run makes of a picture must not depend on the folder it is read from. Writes
are not read back.
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

from rich.filesize import decimal

from shards.format import ShardsError, sync_path
from shards.format.index import ShardIndex
from stylefinetune.errors import UserError

LOCK_FILE, PART_SUFFIX = ".lock", ".part"
CHUNK_BYTES = 1 << 23
LOCK_POLL_SECONDS = 0.1


class ShardCopier:
    """Copies the missing shards, in steps. Of several processes of a node, the one that gets the lock copies."""

    def __init__(self, index: ShardIndex, shards: Iterable[str], folder: Path) -> None:
        self.done = False  # whether all copies are complete
        self.has_lock = False  # whether this process is the one that copies
        self.copied = self.total = 0  # bytes copied so far, and that this process has to copy
        self._index = index
        self._shards = sorted(set(shards))
        self._folder = folder
        self._steps = self._run()

    def work(self, seconds: float) -> None:
        """Copy for about `seconds`, or until all is done.

        Raises:
            UserError: the disk is too small, a file can't be read or written, or a shard or the index changes.
        """
        end = time.monotonic() + seconds
        try:
            for _ in self._steps:
                if time.monotonic() >= end:
                    return
        except OSError as error:
            where = f"{error.filename}: " if error.filename else f"the copy in {self._folder} failed: "
            raise UserError(f"{where}{error.strerror}; see data.stage_dir") from error
        except ShardsError as error:  # the index was remade
            raise UserError(f"data.shards: {error}") from error
        self.done = True

    def close(self) -> None:
        """Stop and release the lock; complete copies remain."""
        self._steps.close()

    def _run(self) -> Generator[None]:
        if not self._find_missing():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / LOCK_FILE, os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            while not self.has_lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.has_lock = True
                except BlockingIOError:
                    time.sleep(LOCK_POLL_SECONDS)
                    yield
            for part in self._folder.rglob(f"*{PART_SUFFIX}"):
                part.unlink()
            missing = self._find_missing()
            self._check_free_space(sum(missing.values()))
            corrupt: list[str] = []
            for name in missing:
                yield from self._copy(name, corrupt)
            if corrupt:
                _warn(
                    f"{len(corrupt)} pictures differ from the index's checksums, the first is {corrupt[0]}; they are "
                    f"copied as they are, see python -m shards verify {self._index.root}"
                )
        finally:
            self.has_lock = False
            os.close(lock)

    def _find_missing(self) -> dict[str, int]:
        """Return the sizes of the shards without a complete copy."""
        missing: dict[str, int] = {}
        for name in self._shards:
            source, copy = (self._index.root / name).stat(), None
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                copy = (self._folder / name).stat()
            if copy is None or _version(copy) != _version(source):
                missing[name] = source.st_size
            if copy and name in missing and self.has_lock:
                _warn(f"{self._folder / name} or its source has changed since it was copied; copying it again")
        return missing

    def _check_free_space(self, needed: int) -> None:
        self.total = needed
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise UserError(
                f"{self._folder} has {decimal(free)} free and the shards need {decimal(needed)}; free some space, set "
                "data.stage_dir to a larger disk, or leave it empty and read in place, with data.shuffle_window"
            )

    def _copy(self, name: str, corrupt: list[str]) -> Generator[None]:
        """Copy one shard, and add its corrupt pictures to `corrupt`."""
        source, target = self._index.root / name, self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART_SUFFIX)
        try:
            with source.open("rb", CHUNK_BYTES) as reader, part.open("wb", CHUNK_BYTES) as writer:
                before = os.fstat(reader.fileno())
                mismatches: list[tuple[dict[str, Any], str]] = []
                for picture in self._index.pictures_of(name):
                    yield from self._copy_bytes(reader, writer, picture["offset"] - reader.tell())
                    digest = hashlib.sha256()
                    yield from self._copy_bytes(reader, writer, picture["length"], digest)
                    if digest.hexdigest() != picture["sha256"]:
                        mismatches.append((picture, digest.hexdigest()))
                yield from self._copy_bytes(reader, writer, before.st_size - reader.tell())
                writer.flush()
                for picture, digest in mismatches:
                    if _is_corrupt_at_source(picture, digest, reader, writer, source):
                        corrupt.append(f"{source}: {picture['key']}")
                os.utime(writer.fileno(), ns=(time.time_ns(), before.st_mtime_ns))
                os.fsync(writer.fileno())
                if _version(os.fstat(reader.fileno())) != _version(before):
                    raise _changed(source)
            part.replace(target)
            sync_path(target.parent)
        finally:
            part.unlink(missing_ok=True)

    def _copy_bytes(self, reader: IO[bytes], writer: IO[bytes], count: int, digest: Any = None) -> Generator[None]:  # noqa: ANN401 -- hashlib has no public type
        while count > 0:
            chunk = _read(reader, min(count, CHUNK_BYTES))
            writer.write(chunk)
            if digest:
                digest.update(chunk)
            count -= len(chunk)
            self.copied += len(chunk)
            yield


def _read(reader: IO[bytes], count: int) -> bytes:
    try:
        chunk = reader.read(count)
    except OSError as error:
        raise UserError(f"{reader.name} can't be read: {error.strerror}") from error
    if not chunk:
        raise _changed(Path(reader.name))
    return chunk


def _is_corrupt_at_source(
    picture: dict[str, Any], digest: str, reader: IO[bytes], writer: IO[bytes], source: Path
) -> bool:
    """Read a mismatching picture again; return whether it is the same. A read error is corrected in the copy."""
    offset, length = picture["offset"], picture["length"]
    os.posix_fadvise(reader.fileno(), offset, length, os.POSIX_FADV_DONTNEED)  # read from the disk, not the page cache
    content = os.pread(reader.fileno(), length, offset)
    second_digest = hashlib.sha256(content).hexdigest()
    if second_digest == picture["sha256"]:
        os.pwrite(writer.fileno(), content, offset)
    elif second_digest != digest:
        raise UserError(f"{source}: {picture['key']} reads differently each time; check its disk and its network")
    return second_digest == digest


def _changed(source: Path) -> UserError:
    return UserError(f"{source} changed while it was copied; start again once no process writes to it")


def _version(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _warn(line: str) -> None:
    sys.stderr.write(f"warning: {socket.gethostname()}: {line}\n")
