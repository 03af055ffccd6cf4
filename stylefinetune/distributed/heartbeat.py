"""What each rank is doing, told to the others twice a second, so that one that dies or stalls is named by those left.

A record a rank lies in the store that the ranks met through. Nobody reads them while all goes well.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from stylefinetune.errors import EXIT_LOST_RANK

HEARTBEAT_SECONDS = 0.5  # seconds
WATCHED = 5  # beats after which a rank that tells nothing new counts as lost
STARTING = "starting"
GRACE = 2  # seconds that a vote's own time limit has to speak first


class Store(Protocol):
    """What is used of torch.distributed's stores."""

    def set(self, key: str, value: str, /) -> None:
        """Writes a value."""
        ...

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Reads several values, waiting for those that aren't there yet."""
        ...


@dataclasses.dataclass(frozen=True)
class RankState:
    """What one rank was doing when it last told.

    Attributes:
        rank: whose.
        host: where it runs.
        pid: as which process there.
        activity: such as "reading data".
        iteration: of the run.
        turn: acts begun so far; all ranks do the same ones in the same order.
        beat: times told so far.
        ending: the last word, of a rank that can't go on: why; empty while it goes on.
    """

    rank: int
    host: str
    pid: int
    activity: str = STARTING
    iteration: int = 0
    turn: int = 0
    beat: int = 0
    ending: "LostRank | None" = None

    def __str__(self) -> str:
        """Returns such as `reading data at iteration 41`."""
        return self.activity if self.activity == STARTING else f"{self.activity} at iteration {self.iteration}"


@dataclasses.dataclass(frozen=True)
class LostRank:
    """Why no rank can go on.

    Attributes:
        line: which rank, on which host, doing what.
        speaker: the rank that tells of it: the lost one itself if it could, else the lowest one left.
        code: what all exit with.
    """

    line: str
    speaker: int
    code: int = EXIT_LOST_RANK


class Heartbeat:
    """Tells the others what this rank is doing, and finds out what became of them.

    Args:
        rank: this one.
        size: how many there are.
        store: shared by all ranks; None alone.
        limit: seconds that one act may last.
        launched: a launcher started this rank, and has to outlive it.
    """

    def __init__(self, rank: int, size: int, store: Store | None, limit: float, *, launched: bool) -> None:
        self._me = RankState(rank, socket.gethostname(), os.getpid())
        self._size = size
        self._store = store
        self._limit = limit
        self._launcher = os.getppid() if launched else None
        self._now = (STARTING, 0, 0)
        self._since = time.monotonic()
        self._beats = 0
        self._ending: LostRank | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.on_lost_rank: Callable[[LostRank], None] | None = None

    @property
    def state(self) -> RankState:
        """What this rank is doing."""
        activity, iteration, turn = self._now
        return dataclasses.replace(
            self._me, activity=activity, iteration=iteration, turn=turn, beat=self._beats, ending=self._ending
        )

    def start(self) -> None:
        """Begins to tell."""
        if self._store is not None or self._launcher is not None:
            self._tell()
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def set_activity(self, act: str, iteration: int) -> None:
        """Notes what this rank does from now on."""
        self._now = (act, iteration, self._now[2] + 1)
        self._since = time.monotonic()

    def announce_exit(self, why: LostRank) -> None:
        """Leaves this rank's last word, so that the others need not guess."""
        self._ending = why
        self._tell()

    def close(self) -> None:
        """Stops telling."""
        self._closed.set()

    def announced_exit(self) -> LostRank | None:
        """Returns the last word of another rank, if there is one."""
        words = [act.ending for act in self._read() if act.ending and act.rank != self._me.rank]
        return words[0] if words else None

    def find_lost_rank(self) -> LostRank | None:
        """Finds why this rank can't go on, watching the others for some beats; None where all live and are level."""
        if self._store is None:
            return None
        before = now = self._read()
        for _ in range(WATCHED):
            time.sleep(HEARTBEAT_SECONDS)
            self._tell()  # whoever asks this is alive, also where it is the beating thread
            word, now = self.announced_exit(), self._read()
            if word:
                return word
        if not (before and now):
            line = "the store that the ranks met through is gone: the launcher, or the node it ran on, has died"
            return LostRank(line, self._me.rank)
        mute = [act for act, then in zip(now, before, strict=True) if act.beat == then.beat]
        if mute:
            return _report_lost_rank(mute, now, "has died" if _is_gone(mute[0], self._me) else "has died or stalled")
        behind = [act for act in now if act.turn == min(other.turn for other in now)]
        return _report_lost_rank(behind, now, self._stalled) if len(behind) < len(now) else None

    @property
    def _stalled(self) -> str:
        return f"has stalled for {self._limit:g} s"

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(MemoryError):  # which the main thread tells of, if it meets it too
                self._beat_once()

    def _beat_once(self) -> None:
        if self._launcher not in (None, os.getppid()):
            self._abort(LostRank(f"the launcher of rank {self._me.rank} on {self._me.host} is gone", self._me.rank))
        self._tell()
        act = self.state
        if act.activity != STARTING and time.monotonic() - self._since > self._limit + GRACE:
            self._abort(self.find_lost_rank() or _report_lost_rank([act], [], self._stalled))

    def _abort(self, why: LostRank) -> None:
        if self.on_lost_rank and not self._closed.is_set():
            self.on_lost_rank(why)

    def _tell(self) -> None:
        if self._store is None:
            return
        with self._lock:
            self._beats += 1
            # Where the store is gone, the launcher is too, or the next collective fails; without memory for these
            # words, the others find out by themselves.
            with contextlib.suppress(RuntimeError, MemoryError):
                self._store.set(f"act/{self._me.rank}", json.dumps(dataclasses.asdict(self.state)))

    def _read(self) -> list[RankState]:
        """Returns what all ranks last told; nothing where the store is gone."""
        if self._store is None:
            return []
        try:
            found = [json.loads(record) for record in self._store.multi_get([f"act/{r}" for r in range(self._size)])]
        except RuntimeError:
            return []
        return [_parse_state(record) for record in found]


def _parse_state(record: dict[str, Any]) -> RankState:
    ending = record.pop("ending")
    return RankState(**record, ending=LostRank(**ending) if ending else None)


def _report_lost_rank(lost: list[RankState], acts: list[RankState], words: str) -> LostRank:
    first, others = lost[0], ", ".join(str(act.rank) for act in lost[1:])
    line = f"rank {first.rank} on {first.host} {words} while {first}" + (f", and with it {others}" if others else "")
    left = {act.rank for act in acts} - {act.rank for act in lost}
    return LostRank(line, min(left, default=first.rank))


def _is_gone(act: RankState, mine: RankState) -> bool:
    """Says whether a rank of this very host has no process any more."""
    if act.host != mine.host:
        return False
    try:
        os.kill(act.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
