"""Copies the shards that an index names to another folder, each atomically and only once.

A copy is written under a temporary name, checked, synced, given the modification time of its source and renamed last.
So a file with the final name is complete. It is used again while its size and time equal the source's: a second start
copies nothing, and a start after a kill copies only the rest.

The SHA-256 of every picture is compared with the index while the shard is copied. (A checksum of the file as it was
read could not detect a read error.) A picture that differs is read a second time. If the result is the same, the source
is corrupt and is copied as it is: what a run makes of a picture must not depend on the folder it is read from. Writes
are not read back.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from rich.filesize import decimal

from shards.format import ShardsError, sync_path
from shards.format.index import ShardIndex
from stylefinetune.data.staging.source import ShardSource, changed_error, file_version, shard_source
from stylefinetune.errors import UserError

LOCK_FILE, PART_SUFFIX = ".lock", ".part"
COPY_BYTES = 1 << 23  # copied between two looks at the clock
LOCK_POLL_SECONDS = 0.1


class ShardCopier:
    """Copies the missing shards, in steps. Of several processes of a node, the one that gets the lock copies.

    `limit` is the number of bytes that all copies of these shards may take; None is the size of the disk.
    """

    def __init__(self, index: ShardIndex, shards: Iterable[str], folder: Path, limit: int | None = None) -> None:
        self.done = False  # whether all copies are complete
        self.has_lock = False  # whether this process is the one that copies
        self.copied = self.total = 0  # bytes copied so far, and that this process has to copy
        self._index = index
        self._shards = sorted(set(shards))
        self._folder = folder
        self._limit = limit
        self._source = shard_source(index.root)
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
            raise copy_error(error, self._folder) from error
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
            self._check_space(sum(missing.values()))
            corrupt: list[str] = []
            for name in missing:
                for count in copy_shard(self._index, name, self._folder, corrupt):
                    self.copied += count
                    yield
            if corrupt:
                _warn(
                    f"{len(corrupt)} pictures differ from the index's checksums, the first is {corrupt[0]}; they are "
                    f"copied as they are, see: shards verify {self._index.root}"
                )
        finally:
            self.has_lock = False
            os.close(lock)

    def _find_missing(self) -> dict[str, int]:
        """Return the sizes of the shards without a complete copy."""
        missing: dict[str, int] = {}
        for name in self._shards:
            version, copy = self._source.version(name), file_version(self._folder / name)
            if version is None:
                raise UserError(f"{self._source.name(name)} is missing; restore it")
            if copy != version:
                missing[name] = version[0]
            if copy and name in missing and self.has_lock:
                _warn(f"{self._folder / name} or its source has changed since it was copied; copying it again")
        return missing

    def _check_space(self, needed: int) -> None:
        self.total = needed
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise UserError(
                f"{self._folder} has {decimal(free)} free and the shards need {decimal(needed)}; free some space, set "
                f"data.stage_dir to a larger disk, or {self._remedy()}"
            )
        whole = sum(version[0] for version in map(self._source.version, self._shards) if version)
        if self._limit is not None and whole > self._limit:
            raise UserError(
                f"the shards need {decimal(whole)}, more than data.stage_bytes, {decimal(self._limit)}; raise it, or "
                f"{self._remedy()}"
            )

    def _remedy(self) -> str:
        if not self._source.is_remote:
            return "leave it empty and read in place, with data.shuffle_window"
        return "set data.shuffle_window, with which only a few shards are on the disk at a time"


def copy_shard(index: ShardIndex, name: str, folder: Path, corrupt: list[str]) -> Generator[int]:
    """Copy one shard in steps, and yield the bytes of each; add its corrupt pictures to `corrupt`.

    Raises:
        UserError: the source can't be read, or changes.
        OSError: the copy can't be written.
    """
    source, target = shard_source(index.root), folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART_SUFFIX)
    version = source.version(name)
    assert version is not None
    try:
        with source.open(name) as reader, part.open("wb", COPY_BYTES) as writer:
            mismatches: list[tuple[dict[str, Any], str]] = []
            position = 0
            for picture in index.pictures_of(name):
                yield from _copy_bytes(source, name, reader, writer, picture["offset"] - position)
                digest = hashlib.sha256()
                yield from _copy_bytes(source, name, reader, writer, picture["length"], digest)
                position = picture["offset"] + picture["length"]
                if digest.hexdigest() != picture["sha256"]:
                    mismatches.append((picture, digest.hexdigest()))
            yield from _copy_bytes(source, name, reader, writer, version[0] - position)
            writer.flush()
            for picture, digest in mismatches:
                if _is_corrupt_at_source(picture, digest, source, name, writer):
                    corrupt.append(f"{source.name(name)}: {picture['key']}")
            os.utime(writer.fileno(), ns=(time.time_ns(), version[1]))
            os.fsync(writer.fileno())
            source.check_unchanged(name, version)
        part.replace(target)
        sync_path(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _copy_bytes(
    source: ShardSource,
    name: str,
    reader: BinaryIO,
    writer: BinaryIO,
    count: int,
    digest: Any = None,  # noqa: ANN401 -- hashlib has no public type
) -> Generator[int]:
    while count > 0:
        chunk = _read(reader, min(count, COPY_BYTES), source.name(name))
        writer.write(chunk)
        if digest:
            digest.update(chunk)
        count -= len(chunk)
        yield len(chunk)


def _read(reader: BinaryIO, count: int, name: str) -> bytes:
    try:
        chunk = reader.read(count)
    except OSError as error:
        raise UserError(f"{name} can't be read: {error.strerror}") from error
    if not chunk:
        raise changed_error(name)
    return chunk


def _is_corrupt_at_source(
    picture: dict[str, Any], digest: str, source: ShardSource, name: str, writer: BinaryIO
) -> bool:
    """Read a mismatching picture again; return whether it is the same. A read error is corrected in the copy."""
    content = source.read_again(name, picture["offset"], picture["length"])
    second_digest = hashlib.sha256(content).hexdigest()
    if second_digest == picture["sha256"]:
        os.pwrite(writer.fileno(), content, picture["offset"])
    elif second_digest != digest:
        raise UserError(
            f"{source.name(name)}: {picture['key']} reads differently each time; check its disk and its network"
        )
    return second_digest == digest


def copy_error(error: OSError, folder: Path) -> UserError:
    """Return the error for copies that can't be written."""
    where = f"{error.filename}: " if error.filename else f"the copy in {folder} failed: "
    return UserError(f"{where}{error.strerror}; see data.stage_dir")


def _warn(line: str) -> None:
    sys.stderr.write(f"warning: {socket.gethostname()}: {line}\n")
