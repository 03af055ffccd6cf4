"""Handles the end of a run on each rank: finds the cause, records it in RUN/exit.json and informs the other ranks.

torchrun restarts the ranks after every failure. That helps after a lost rank, and where `requeue` is true for memory or
data. After any other end the restarted ranks exit at once and exit.json stays as it is.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Self

from stylefinetune.distributed.heartbeat import LostRank
from stylefinetune.distributed.world import World
from stylefinetune.errors import (
    EXIT_CRASH,
    EXIT_USER_ERROR,
    WORKER_ERROR,
    DataError,
    LostRankError,
    NotFiniteError,
    RankError,
    RankOutOfMemoryError,
    Stopped,
    UserError,
    is_out_of_memory,
    out_of_memory_message,
    worker_error,
)
from stylefinetune.training.exit_record import EXIT_FILE, PREEMPTION_SIGNALS, ExitRecord

# Rank 0 reports an error that all ranks have. The others exit later, since launchers end all ranks with the first one.
_REPORT_SECONDS = 2.0


class ExitHandler:
    """A context manager around training, on each rank: exit.json records the end, and no rank waits for a lost one.

    `newest` finds the newest checkpoint of the run, which rank 0 writes and any rank may have to record.
    """

    def __init__(self, run_dir: Path, world: World, newest: Callable[[], Path | None] = lambda: None) -> None:
        self._run_dir = run_dir
        self._world = world
        self._newest = newest
        self._checkpoint: Path | None = None
        self._has_saved = False  # since this start
        self._exiting = threading.Lock()  # acquired once, by the thread that ends the process

    def check_restart(self) -> None:
        """Check on rank 0 that a restart by torchrun can help.

        Raises:
            UserError: it cannot.
        """
        previous = ExitRecord.read(self._run_dir)
        if previous and previous.restarts < self._world.restarts and not previous.restart_can_help:
            error = UserError(f"not restarted, since a restart can't help: {previous.message}")
            error.code = previous.code
            raise error

    def __enter__(self) -> Self:
        """Remove the record of the previous end."""
        if self._world.is_main:
            with contextlib.suppress(OSError):  # a RUN that cannot be written to is reported by the first write
                (self._run_dir / EXIT_FILE).unlink()
        self._checkpoint = None if self._world.is_main else self._newest()
        self._world.monitor.on_lost_rank = self._exit_for_lost_rank
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Record the end, inform the other ranks, and raise the error that the user reads."""
        self._world.monitor.on_lost_rank = None
        if error is None:
            if self._world.is_main:
                self._record(0, "finished", "finished")
        elif isinstance(error, Stopped):
            if self._world.is_main:
                self._record(error.code, error.reason, str(error), by=error.signal)
        elif isinstance(error, Exception):
            self._exiting.acquire()  # never released
            cause = self._find_cause(error)
            if cause is not error:
                raise cause from None

    def note_resumed(self, checkpoint: Path) -> None:
        """Note the checkpoint that the run resumes from."""
        self._checkpoint = checkpoint

    def note_saved(self, checkpoint: Path) -> None:
        """Note the newest good checkpoint."""
        self._checkpoint, self._has_saved = checkpoint, True

    def exit_now(self, by: signal.Signals, why: str) -> NoReturn:
        """End this process without saving. Any thread may call it."""
        if not self._exiting.acquire(blocking=False):
            _exit(128 + by)
        lost = self._world.heartbeat.announced_exit()
        if lost:
            _exit(self._record_lost_rank(lost).code)
        message = f"stopped by {by.name}, {why}; {self._remedy()}"
        if self._world.is_main:
            sys.stderr.write(message + "\n")
            self._record(128 + by, Stopped.reason, message, by=by)
        _exit(128 + by)

    def exit_for_successor(self, message: str) -> None:
        """End this process, since another one uses run_dir and writes exit.json now. Any thread may call it."""
        if not self._exiting.acquire(blocking=False):
            return
        rank = self._world.rank
        self._world.heartbeat.announce_exit(LostRank(message, rank, EXIT_USER_ERROR))
        sys.stderr.write(f"error: {message}\n")
        _exit(EXIT_USER_ERROR)

    def _find_cause(self, error: Exception) -> Exception:
        """Return the error to raise in place of `error`, after recording it and informing the other ranks."""
        self._update_checkpoint()
        if isinstance(error, RuntimeError) and str(error).startswith(WORKER_ERROR):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raised this, and would raise it again
            error = worker_error(error)
        elif is_out_of_memory(error):
            error = RankOutOfMemoryError(out_of_memory_message(error))
        elif isinstance(error, RuntimeError):
            lost = self._world.monitor.find_lost_rank()
            if lost:
                return self._record_lost_rank(lost)
        self._record_error(error)
        return error

    def _record_error(self, error: Exception) -> None:
        state = self._world.heartbeat.state
        where = f"(on {state.host}, {state})"
        iteration = error.iteration if isinstance(error, NotFiniteError) else state.iteration
        on_all_ranks = isinstance(error, UserError) and not isinstance(error, RankError)
        if isinstance(error, UserError):
            code, reason, message = error.code, error.reason, str(error)
        elif isinstance(error, OSError) and error.filename is not None:
            code, reason, message = EXIT_USER_ERROR, UserError.reason, f"{error.filename}: {error.strerror}"
        else:
            code, reason, message = EXIT_CRASH, "crash", f"{type(error).__name__}: {error}".splitlines()[0]
            sys.stderr.write(f"error: rank {state.rank} crashed: {message} {where}\n")
        if not on_all_ranks and reason != "crash":
            error.add_note(where)
        if not on_all_ranks or self._world.is_main:
            may_pass = isinstance(error, (DataError, RankOutOfMemoryError))
            self._record(code, reason, message, requeue=may_pass and self._has_saved, iteration=iteration)
        line = f"rank {state.rank} on {state.host}: {message}"
        self._world.heartbeat.announce_exit(LostRank(line, state.rank, code, iteration))
        if on_all_ranks and not self._world.is_main:
            time.sleep(_REPORT_SECONDS)

    def _record_lost_rank(self, lost: LostRank) -> LostRankError:
        self._update_checkpoint()
        self._world.heartbeat.announce_exit(lost)
        reports = lost.reporter == self._world.rank
        if reports:
            self._record(
                lost.code, LostRankError.reason, lost.message, requeue=self._has_saved, iteration=lost.iteration
            )
        error = LostRankError(f"{lost.message}; {self._remedy()}", reports=reports)
        error.code = lost.code
        return error

    def _exit_for_lost_rank(self, lost: LostRank) -> None:
        """End this process from the heartbeat thread, while the main thread waits for the lost rank."""
        if not self._exiting.acquire(blocking=False):
            return
        error = self._record_lost_rank(lost)
        if error.reports:
            sys.stderr.write(f"error: {error}\n")
        _exit(lost.code)

    def _update_checkpoint(self) -> None:
        """Find the checkpoint that rank 0 has saved meanwhile, on another rank."""
        found = None if self._world.is_main else self._newest()
        if found and found != self._checkpoint:
            self.note_saved(found)

    def _remedy(self) -> str:
        start = f"continue from {self._checkpoint}" if self._checkpoint else "start over"
        return f"run the same command again to {start}"

    def _record(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        by: signal.Signals | None = None,
        requeue: bool = False,
        iteration: int | None = None,
    ) -> None:
        """Write exit.json, unless it is written already; `iteration` is this rank's by default."""
        ExitRecord(
            code=code,
            reason=reason,
            signal=by.name if by else None,
            message=message,
            requeue=requeue or by in PREEMPTION_SIGNALS,
            iteration=self._world.heartbeat.state.iteration if iteration is None else iteration,
            checkpoint=str(self._checkpoint) if self._checkpoint else None,
            restarts=self._world.restarts,
        ).write(self._run_dir, self._world.rank)


def _exit(code: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(code)
