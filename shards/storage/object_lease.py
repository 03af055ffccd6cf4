"""A lease on a URL, or on one partition of it: an object that its holder renews while it writes there.

Object stores have neither flock nor rename. So each process writes a separate object, renews it every few seconds,
and then looks for the objects of others: of two that conflict both may be refused, but both can never go on. An object
that isn't renewed has expired, and the next process removes it. A process whose object is gone has lost the lease, and
finds that out before it uploads a block.

A process on the same machine needs no expiry, because the lock on its stage shows whether it is alive. The stage holds
the name of its object, which shows that the machine is the same one: two containers may have the same host name.
"""

import contextlib
import secrets
from collections.abc import Generator
from pathlib import Path

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.object_store import ObjectStore
from shards.storage import lock_holder
from shards.storage.file_lock import WORK_FOLDER, find_lock_holder
from shards.storage.lock_holder import LOCK_SUFFIX, Heartbeat, LockHolder

_NAME_FILE = "lease"  # in the stage; holds the object's name
_HEARTBEAT_SECONDS = 5.0  # seconds between two heartbeats
_EXPIRY_SECONDS = 30.0  # seconds without a heartbeat after which a lease is free; uploads of tars delay small objects


class ObjectLease:
    """One process's right to write under a URL."""

    def __init__(self, objects: ObjectStore, stage: Path, partition: Partition | None, plan: str) -> None:
        self._objects = objects
        self._stage = stage
        self._label = lock_holder.lock_name(partition)
        self._name = f"{WORK_FOLDER}/{self._label}.{secrets.token_hex(8)}{LOCK_SUFFIX}"
        self._holder = LockHolder.current(plan, str(stage.resolve()))
        self._heartbeat = Heartbeat(self._renew, _HEARTBEAT_SECONDS)

    def acquire(self) -> None:
        """Acquire the lease, or raise ShardsError; wait for the expiry of a process that died elsewhere."""
        predecessor = _read_name(self._stage)  # of the process that had the lock on the stage before this one
        self._objects.write(self._name, self._holder.encode(0), is_retried=False)
        self._heartbeat.start()
        (self._stage / _NAME_FILE).write_text(self._name, encoding="utf-8")
        found = _read_records(self._objects)
        others = {name: record for name, record in found.items() if self._conflicts(name, record)}
        held = _find_held(self._objects, {name: record for name, record in others.items() if name != predecessor})
        if held:
            raise lock_holder.lock_refused(self._objects.url, self._label, _label_of(held[0]), held[1])
        self._objects.remove(others)

    def _conflicts(self, name: str, record: bytes) -> bool:
        if name == self._name:
            return False
        return lock_holder.locks_conflict(self._label, self._holder, _label_of(name), LockHolder.decode(record))

    def check(self) -> None:
        """Raise ShardsError where another process has taken over."""
        if self._objects.read(self._name) is None:
            raise ShardsError(
                f"{self._objects.url}: another process took over while this one was suspended; its "
                "finished blocks are kept, and the other process continues"
            )

    def _renew(self, beat: int) -> bool:
        if self._objects.read(self._name, is_retried=False) is None:
            return False
        self._objects.write(self._name, self._holder.encode(beat), is_retried=False)
        return True

    def release(self) -> None:
        """Give the lease up."""
        self._heartbeat.stop()
        with contextlib.suppress(ShardsError, OSError):  # the lease expires
            self._objects.remove([self._name], is_retried=False)
            (self._stage / _NAME_FILE).unlink()


@contextlib.contextmanager
def hold_lease(objects: ObjectStore, stage: Path, partition: Partition | None, plan: str) -> Generator[ObjectLease]:
    """Hold a lease on a URL, or on one partition of it, as `exclusive_lock` does; `stage` is already locked.

    Raises:
        ShardsError: another process holds it.
    """
    lease = ObjectLease(objects, stage, partition, plan)
    try:
        lease.acquire()
        yield lease
    finally:
        lease.release()


def find_lease_holder(objects: ObjectStore) -> str | None:
    """Return the process that holds a lease on a URL, or None; wait for the expiry of other machines' leases."""
    held = _find_held(objects, _read_records(objects))
    return held[1].process if held else None


def _label_of(name: str) -> str:
    return name.removeprefix(f"{WORK_FOLDER}/").partition(".")[0]


def _read_records(objects: ObjectStore) -> dict[str, bytes]:
    names = [name for name in objects.list() if name.startswith(f"{WORK_FOLDER}/") and name.endswith(LOCK_SUFFIX)]
    return {name: record for name in names if (record := objects.read(name)) is not None}


def _read_name(stage: Path) -> str | None:
    """Return the name of the object of the last process that used a stage on this machine, or None."""
    try:
        return (stage / _NAME_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _find_held(objects: ObjectStore, records: dict[str, bytes]) -> tuple[str, LockHolder] | None:
    """Return the first lease that turns out to be held, and its holder; watch other machines' until expiry."""
    host = LockHolder.current("").host
    foreign: dict[str, bytes] = {}
    for name, record in records.items():
        holder = LockHolder.decode(record)
        stage = Path(holder.stage)
        if holder.host != host or _read_name(stage) != name:
            foreign[name] = record
        elif find_lock_holder(stage):
            return name, holder
    return lock_holder.find_renewed(foreign, objects.read, _HEARTBEAT_SECONDS, _EXPIRY_SECONDS)
