"""Publishes what each rank is doing, in the store that torchrun's ranks share.

The states are read only when a rank may be lost, see `stylefinetune.distributed.rank_monitor`.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from typing import Any

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage] -- documented all the same

from stylefinetune.errors import EXIT_LOST_RANK

STARTING, FINISHING = "starting", "finishing"
UNLIMITED = {STARTING, FINISHING}  # activities whose time has no limit here


@dataclasses.dataclass(frozen=True)
class LostRank:
    """Why the ranks can't continue."""

    message: str  # which rank is lost, its host and what it was doing
    reporter: int  # the rank that reports it: the lost rank itself if it still can, else the lowest remaining rank
    code: int = EXIT_LOST_RANK  # of all ranks
    iteration: int | None = dataclasses.field(default=None, compare=False)  # of the lost rank, if it is known


@dataclasses.dataclass(frozen=True)
class RankState:
    """What a rank was doing when it last published its state."""

    rank: int
    host: str
    pid: int
    activity: str = STARTING  # for example "reading data"
    iteration: int = 0
    sequence: int = 0  # number of activities started so far; all ranks start the same activities in the same order
    heartbeats: int = 0  # number of states published so far
    exit_reason: LostRank | None = None  # None while it runs

    def __str__(self) -> str:
        """Return for example `reading data at iteration 41`."""
        return self.activity if self.activity == STARTING else f"{self.activity} at iteration {self.iteration}"


class Heartbeat:
    """The published state of this rank, and access to the states of the others. In a world of one, `store` is None."""

    def __init__(self, rank: int, size: int, store: Store | None) -> None:
        self._process = (rank, socket.gethostname(), os.getpid())
        self._rank = rank
        self._size = size
        self._store = store
        self._activity = (STARTING, 0, 0)  # replaced as a whole, since another thread reads it
        self._since = time.monotonic()
        self._count = 0
        self._exit_reason: LostRank | None = None
        self._lock = threading.Lock()

    @property
    def is_shared(self) -> bool:
        """Whether other ranks can read the state."""
        return self._store is not None

    @property
    def state(self) -> RankState:
        """The state of this rank."""
        return RankState(*self._process, *self._activity, self._count, self._exit_reason)

    @property
    def seconds_in_activity(self) -> float:
        """Seconds since the current activity began."""
        return time.monotonic() - self._since

    def set_activity(self, activity: str, iteration: int) -> None:
        """Record what this rank does from now on."""
        self._activity = (activity, iteration, self._activity[2] + 1)
        self._since = time.monotonic()

    def announce_exit(self, reason: LostRank) -> None:
        """Publish why this rank exits."""
        self._exit_reason = reason
        self.publish()

    def announced_exit(self) -> LostRank | None:
        """Return why another rank exits, if one has announced it."""
        states = [state for state in self.read_states() if state.rank != self._rank]
        return next((state.exit_reason for state in states if state.exit_reason), None)

    def publish(self) -> None:
        """Write this rank's state to the store."""
        if self._store is None:
            return
        with self._lock:
            self._count += 1
            # If the store is gone, the launcher is gone too or the next collective fails. If memory is short, the other
            # ranks detect the missing heartbeat.
            with contextlib.suppress(RuntimeError, MemoryError):
                self._store.set(f"state/{self._rank}", json.dumps(dataclasses.asdict(self.state)))

    def read_states(self) -> list[RankState]:
        """Return the last published state of every rank; empty if there is no store."""
        if self._store is None:
            return []
        try:
            records = self._store.multi_get([f"state/{rank}" for rank in range(self._size)])
        except RuntimeError:
            return []
        return [_parse_state(json.loads(record)) for record in records]


def _parse_state(record: dict[str, Any]) -> RankState:
    reason = record.pop("exit_reason")
    return RankState(**record, exit_reason=LostRank(**reason) if reason else None)
