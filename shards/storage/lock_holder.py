"""What file locks and object leases share: the holder's record, its heartbeat, its expiry, and which locks conflict."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from shards.config.schema import Partition, suffix_of
from shards.errors import ShardsError

WHOLE = "whole"  # the name of the lock on all of DIR
LOCK_SUFFIX = ".lock"

_Key = TypeVar("_Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class LockHolder:
    """The process that holds a lock or a lease, as its record names it; an empty or damaged record names no host."""

    host: str = ""  # the node's host name
    process: str = "another process"  # the process, for messages
    plan: str = ""  # sha256 of what the process makes DIR from
    name: str = ""  # the name of its work folder, which no other process has; file locks only
    stage: str = ""  # its stage, as an absolute path; object leases only

    @classmethod
    def current(cls, plan: str, stage: str = "") -> "LockHolder":
        """Return this process."""
        host, pid = socket.gethostname(), os.getpid()
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")
        process = f"process {pid} on {host}" + (f", Slurm job {job}" if job else "")
        digest = hashlib.sha256(plan.encode()).hexdigest()
        return cls(host, process, digest, "" if stage else f"{host}-{pid}-{secrets.token_hex(4)}", stage)

    def encode(self, beat: int) -> bytes:
        """Return the record; its length doesn't depend on the number of the heartbeat, so one write replaces it."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value}
        return json.dumps(fields | {"beat": f"{beat:012}"}).encode()

    @classmethod
    def decode(cls, content: bytes) -> "LockHolder":
        """Read a record; one that is damaged, or still empty, gives an unknown holder."""
        try:
            fields = json.loads(content)
            names = [field.name for field in dataclasses.fields(cls) if field.name in fields]
            return cls(**{name: str(fields[name]) for name in names})
        except (ValueError, TypeError):
            return cls()


def lock_name(partition: Partition | None) -> str:
    """Return the name of the lock on a partition; None is all of DIR."""
    return suffix_of(partition).removeprefix("-") or WHOLE


def locks_conflict(name: str, holder: LockHolder, other: str, other_holder: LockHolder) -> bool:
    """Check whether two locks exclude each other: one of all of DIR, of one partition, or of another count or plan."""
    if name == other or WHOLE in {name, other}:
        return True
    return name.partition("-of-")[2] != other.partition("-of-")[2] or other_holder.plan not in {holder.plan, ""}


def lock_refused(where: str, name: str, held: str, holder: LockHolder) -> ShardsError:
    """Return the error for the lock `name` on DIR or a URL, `where`, because the lock `held` is held."""
    partition = "" if held == WHOLE else f", partition {held.replace('-of-', '/')},"
    differs = WHOLE not in {name, held} and name != held
    reason = ", which has another number of partitions, list or setting" if differs else ""
    return ShardsError(f"{where}{partition} is in use by {holder.process}{reason}; wait until it has ended")


class Heartbeat:
    """A thread that renews a lock every `interval` seconds, until it is stopped or `renew` returns False.

    `renew` gets the number of the heartbeat, and returns False if another process has taken the lock.
    """

    def __init__(self, renew: Callable[[int], bool], interval: float) -> None:
        self._renew = renew
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, if it was started, and wait for its end."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        for beat in itertools.count(1):
            if self._stopping.wait(self._interval):
                return
            with contextlib.suppress(OSError, ShardsError):  # the work meets the same error and reports it
                if not self._renew(beat):
                    return


def find_renewed(
    records: Mapping[_Key, bytes], read: Callable[[_Key], bytes | None], interval: float, expiry: float
) -> tuple[_Key, LockHolder] | None:
    """Watch locks until one is renewed, which shows that its holder is alive, or until all have expired.

    `records` has the locks' records as last read, and `read` reads one again; it returns None where the lock is gone.
    A lock expires `expiry` seconds after its last heartbeat; holders send one every `interval` seconds.
    """
    watched, end = dict(records), time.monotonic() + expiry
    while watched and time.monotonic() < end:
        time.sleep(interval / 4)
        for key, before in list(watched.items()):
            content = read(key)
            if content is None:
                del watched[key]
            elif content != before:
                return key, LockHolder.decode(content)
    return None
