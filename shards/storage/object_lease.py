"""Who may write under a URL: one process at a time, or one per partition, by objects that show signs of life.

`locks` guards a folder; a store has neither flock nor renaming. So each process first puts an object of its own, which
it puts again every few seconds, and then looks for others: two that exclude each other may both be refused, but never
both go on. An object that doesn't change for a while is a dead process's, and whoever comes next removes it. Whose
object is gone has lost the URL, and finds so before it puts a block.

Of a process of the same machine the kernel knows whether it lives: its stage's lock says so. That it is the same
machine shows in the stage, where the object's name stands; two containers may have one name.
"""

import contextlib
import itertools
import json
import secrets
import threading
import time
from collections.abc import Generator
from pathlib import Path

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.storage.file_lock import WORK_FOLDER, LockHolder, find_lock_holder
from shards.storage.object_store import ObjectStore

_SUFFIX = ".lock"
_NOTE = "lease"  # in the stage: the object's name
_WHOLE = "whole"
_HEARTBEAT_SECONDS = 5.0  # seconds between two signs of life
_EXPIRY_SECONDS = 30.0  # seconds without one after which a process is dead: while tars go up, a small object may wait


class ObjectLease:
    """One process's right to write under a URL."""

    def __init__(self, objects: ObjectStore, stage: Path, partition: Partition | None, plan: str) -> None:
        self._objects = objects
        self._stage = stage
        self._label = f"{partition.index}-of-{partition.count}" if partition else _WHOLE
        self._name = f"{WORK_FOLDER}/{self._label}.{secrets.token_hex(8)}{_SUFFIX}"
        holder = LockHolder.here(plan)
        self._record = {"host": holder.host, "process": holder.process, "plan": holder.plan}
        self._record["stage"] = str(stage.resolve())
        self._ending = threading.Event()
        self._pulse = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Takes it, which needs half a minute where another machine's process has died; or raises ShardsError."""
        predecessor = _find_name(self._stage)  # whose lock on the stage this process has now
        self._objects.write(self._name, self._encode(0), is_patient=False)
        self._pulse.start()
        (self._stage / _NOTE).write_text(self._name, encoding="utf-8")
        records = _read_records(self._objects)
        records.pop(self._name, None)
        rivals = {name: record for name, record in records.items() if self._is_rival(name, record)}
        others = {name: record for name, record in rivals.items() if name != predecessor}
        living = _find_living(self._objects, others)
        if living:
            raise self._refusal(*living)
        self._objects.remove(rivals)

    def _refusal(self, name: str, record: dict[str, str]) -> ShardsError:
        label = _label_of(name)
        partition = "" if label == _WHOLE else f", partition {label.replace('-of-', '/')},"
        is_other = _WHOLE not in {label, self._label} and label != self._label
        reason = ", which was given another n, list or setting" if is_other else ""
        who = record.get("process", "another process")
        return ShardsError(f"{self._objects.url}{partition} is in use by {who}{reason}; wait until it has ended")

    def _is_rival(self, name: str, record: dict[str, str]) -> bool:
        label = _label_of(name)
        if label == self._label or _WHOLE in {label, self._label}:
            return True
        is_same_cut = label.partition("-of-")[2] == self._label.partition("-of-")[2]
        return not is_same_cut or record.get("plan") != self._record["plan"]

    def check(self) -> None:
        """Raises ShardsError where another process has taken over."""
        if self._objects.read(self._name) is None:
            raise ShardsError(
                f"{self._objects.url}: another process took over while this one stood still; what was uploaded stays, "
                "and that one goes on"
            )

    def _beat(self) -> None:
        for beat in itertools.count(1):
            if self._ending.wait(_HEARTBEAT_SECONDS):
                return
            with contextlib.suppress(ShardsError):  # what ails the store is for the work to meet
                if self._objects.read(self._name, is_patient=False) is None:
                    return
                self._objects.write(self._name, self._encode(beat), is_patient=False)

    def _encode(self, beat: int) -> bytes:
        return json.dumps(self._record | {"beat": beat}).encode()

    def release(self) -> None:
        """Gives it back."""
        self._ending.set()
        if self._pulse.ident:
            self._pulse.join()
        with contextlib.suppress(ShardsError, OSError):  # it will be taken for dead
            self._objects.remove([self._name], is_patient=False)
            (self._stage / _NOTE).unlink()


@contextlib.contextmanager
def hold_lease(objects: ObjectStore, stage: Path, partition: Partition | None, plan: str) -> Generator[ObjectLease]:
    """Holds a URL, or one partition of it, for this process.

    Args:
        objects: what lies there.
        stage: where this process works, whose lock it holds.
        partition: which partition; None is all.
        plan: what DIR is made from, in any form; tasks that work side by side must agree on it.

    Raises:
        ShardsError: another process holds it.
    """
    lease = ObjectLease(objects, stage, partition, plan)
    try:
        lease.take()
        yield lease
    finally:
        lease.release()


def find_lease_holder(objects: ObjectStore) -> str | None:
    """Says who is at work under a URL, if anybody; of another machine it takes half a minute to tell."""
    living = _find_living(objects, _read_records(objects))
    return living[1].get("process", "another process") if living else None


def _label_of(name: str) -> str:
    return name.removeprefix(f"{WORK_FOLDER}/").partition(".")[0]


def _read_records(objects: ObjectStore) -> dict[str, dict[str, str]]:
    names = [name for name in objects.list() if name.startswith(f"{WORK_FOLDER}/") and name.endswith(_SUFFIX)]
    contents = {name: objects.read(name) for name in names}
    return {name: _decode(content) for name, content in contents.items() if content is not None}


def _decode(content: bytes) -> dict[str, str]:
    try:
        fields = json.loads(content)
        return {str(name): str(value) for name, value in fields.items()}
    except (ValueError, AttributeError):
        return {}


def _find_name(stage: Path) -> str | None:
    """Returns the name of the object that the last process put which worked in a stage of this machine."""
    try:
        return (stage / _NOTE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _find_living(objects: ObjectStore, records: dict[str, dict[str, str]]) -> tuple[str, dict[str, str]] | None:
    """Returns the first object whose process turns out to live, and what it says; others are watched for _SILENCE."""
    host = LockHolder.here("").host
    watched: dict[str, dict[str, str]] = {}
    for name, record in records.items():
        stage = Path(record.get("stage", ""))
        if record.get("host") != host or _find_name(stage) != name:
            watched[name] = record
        elif find_lock_holder(stage):
            return name, record
    end = time.monotonic() + _EXPIRY_SECONDS
    while watched and time.monotonic() < end:
        time.sleep(_HEARTBEAT_SECONDS / 5)
        for name, before in list(watched.items()):
            content = objects.read(name)
            if content is None:
                del watched[name]
            elif _decode(content) != before:
                return name, _decode(content)
    return None
