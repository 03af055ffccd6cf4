"""Publishes this rank's heartbeat twice a second and finds ranks that died or stalled."""

import contextlib
import os
import threading
import time
from collections.abc import Callable

from stylefinetune.distributed.environment import launcher_gone
from stylefinetune.distributed.heartbeat import UNLIMITED, Heartbeat, LostRank, RankState

HEARTBEAT_SECONDS = 0.5
MISSED_HEARTBEATS = 5  # heartbeats without a new state after which a rank counts as lost
_LAST_CALL_SECONDS = 10.0  # that the thread's last call may take
GRACE = 2  # seconds for the time limit of a collective to report first


class RankMonitor:
    """A thread that publishes the heartbeat, and the search for lost ranks.

    Args:
        heartbeat: of this rank.
        limit: seconds that one activity may take.
        launcher: process id of the launcher, which must outlive this rank; None without one.
        sleep: waits between two looks at the other ranks.

    Attributes:
        on_lost_rank: called from the thread if the launcher is gone or this rank's activity exceeds the limit.
    """

    def __init__(
        self, heartbeat: Heartbeat, limit: float, *, launcher: int | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.heartbeat = heartbeat
        self.on_lost_rank: Callable[[LostRank], None] | None = None
        self._limit = limit
        self._launcher = launcher
        self._sleep = sleep
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.heartbeat.publish()
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, and wait for it: at the exit of the process, a call of the store would abort it."""
        self._closed.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_LAST_CALL_SECONDS)

    def find_lost_rank(self) -> LostRank | None:
        """Watch the other ranks for some heartbeats; return why the ranks can't continue, None if all are healthy."""
        if not self.heartbeat.is_shared:
            return None
        before = now = self.heartbeat.read_states()
        for _ in range(MISSED_HEARTBEATS):
            self._sleep(HEARTBEAT_SECONDS)
            self.heartbeat.publish()  # the thread may be the caller, and the other ranks watch this one
            announced, now = self.heartbeat.announced_exit(), self.heartbeat.read_states()
            if announced:
                return announced
        own = self.heartbeat.state
        if not (before and now):
            return LostRank("the store shared by the ranks is gone: the launcher or its node has died", own.rank)
        silent = [state for state, previous in zip(now, before, strict=True) if state.heartbeats == previous.heartbeats]
        if silent:
            return _lost_rank(silent, now, "has died" if _has_exited(silent[0], own) else "has died or stalled")
        behind = [state for state in now if state.sequence == min(other.sequence for other in now)]
        return _lost_rank(behind, now, self._stalled) if len(behind) < len(now) else None

    @property
    def _stalled(self) -> str:
        return f"has stalled for {self._limit:g} s"

    def _run(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(MemoryError):  # the main thread reports it if it runs out of memory too
                self._check()

    def _check(self) -> None:
        state = self.heartbeat.state
        if self._launcher not in (None, os.getppid()):
            self._report(LostRank(launcher_gone(state.rank), state.rank))
        self.heartbeat.publish()
        if state.activity not in UNLIMITED and self.heartbeat.seconds_in_activity > self._limit + GRACE:
            self._report(self.find_lost_rank() or _lost_rank([state], [], self._stalled))

    def _report(self, lost: LostRank) -> None:
        if self.on_lost_rank and not self._closed.is_set():
            self.on_lost_rank(lost)


def _lost_rank(lost: list[RankState], states: list[RankState], what: str) -> LostRank:
    first, *others = lost
    message = f"rank {first.rank} on {first.host} {what} while {first}"
    if others:
        message += f"; also ranks {', '.join(str(state.rank) for state in others)}"
    remaining = {state.rank for state in states} - {state.rank for state in lost}
    return LostRank(message, min(remaining, default=first.rank), iteration=first.iteration)


def _has_exited(state: RankState, own: RankState) -> bool:
    """Return whether a rank on this host has no process any more."""
    try:
        os.kill(state.pid, 0)
    except ProcessLookupError:
        return state.host == own.host
    except PermissionError:  # it runs, as another user
        pass
    return False
