"""RUN/exit.json: how a run ended, for whoever starts it again; torchrun itself turns every failure into exit code 1.

    {"code": 143, "reason": "stopped", "signal": "SIGTERM", "message": "stopped by SIGTERM; ...", "requeue": true,
     "iteration": 41, "checkpoint": "runs/a/checkpoints/iter_41", "restarts": 0}

- code: as the table in `stylefinetune.errors` has it.
- reason: finished, stopped, user error, not finite, data, lost rank, out of memory or crash.
- signal: the one that stopped it, else null.
- message: the line that the run ended with.
- requeue: whether the same command would get further, without anybody mending anything.
- iteration: that the run was in when it ended.
- checkpoint: the newest good one, which the same command goes on from; null where there is none.
- restarts: torchrun's own (--max_restarts) by then, summed over the ranks.

The file is removed when a run starts, and written once, whole, by the rank that tells how the run ended: the lead; the
rank that failed; or, where one died without a word, the lowest one left. So no file means that the run is under way, or
that everything was killed at once, or that it ended before it knew its folder (a command line that can't be read).

requeue is true after SIGTERM and SIGUSR1, with which schedulers take a node away; false after SIGINT and SIGHUP, with
which a person does. After a lost rank, one that ran out of memory, or data that one rank can't read, it is true if
this start has saved a checkpoint, so that a run that fails at the same place every time isn't started for ever.
Otherwise it is false.

torchrun starts the ranks anew whatever they failed of. That helps after a lost rank, or where requeue is true of
memory or data; after any other end the ranks leave again at once, and the file stays as it is.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stylefinetune.distributed.heartbeat import LostRank
from stylefinetune.distributed.world import World
from stylefinetune.errors import (
    EXIT_CRASH,
    EXIT_USER_ERROR,
    WORKER,
    DataError,
    LostRankError,
    OutOfMemory,
    RankError,
    Stopped,
    UserError,
    memory_refused,
    ran_out_of_memory,
    worker_failed,
)

EXIT_FILE = "exit.json"
PREEMPTION_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}


class ExitRecord:
    """Sees to it that however its block ends, RUN/exit.json says how, and no rank waits for one that is gone.

    Args:
        run_dir: RUN.
        world: the ranks; each enters the block.
        newest: finds the newest checkpoint of the run; the lead writes them, and any rank may have to tell of it.
    """

    def __init__(self, run_dir: Path, world: World, newest: Callable[[], Path | None] = lambda: None) -> None:
        self._file = run_dir / EXIT_FILE
        self._world = world
        self._newest = newest
        self._checkpoint: Path | None = None
        self._advanced = False
        self._over = threading.Lock()  # held by the thread that ends the process

    def refuse_hopeless_restart(self) -> None:
        """Sees whether it was worth torchrun's while to start the ranks anew; the lead's to do.

        Raises:
            UserError: it wasn't.
        """
        if self._world.restarts == 0:
            return
        try:
            before = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # all was killed
            return
        if before["restarts"] < self._world.restarts and not _may_pass(before):
            error = UserError(f"not tried again by torchrun: {before['message']}")
            error.code = before["code"]
            raise error

    def __enter__(self) -> Self:
        """Removes what an earlier run left."""
        if self._world.is_main:
            with contextlib.suppress(OSError):  # whether RUN can be written to is told when it must be
                self._file.unlink()
        self._checkpoint = None if self._world.is_main else self._newest()
        self._world.heartbeat.on_lost_rank = self._abort
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes how it ended, tells the others, and raises what the user is to read."""
        if error is None:
            if self._world.is_main:
                self._write(0, "finished", "finished")
        elif isinstance(error, Stopped):
            if self._world.is_main:
                self._write(
                    error.code, error.reason, str(error), by=error.signal, again=error.signal in PREEMPTION_SIGNALS
                )
        elif isinstance(error, Exception):
            self._over.acquire()  # for good
            told = self._classify(error)
            if told is not error:
                raise told from None

    def note_resumed(self, checkpoint: Path) -> None:
        """Notes the checkpoint that the run goes on from."""
        self._checkpoint = checkpoint

    def note_saved(self, checkpoint: Path) -> None:
        """Notes the newest good checkpoint."""
        self._checkpoint, self._advanced = checkpoint, True

    def _catch_up(self) -> None:
        """Lets a rank other than the lead see what the lead has saved since."""
        found = None if self._world.is_main else self._newest()
        if found and found != self._checkpoint:
            self.note_saved(found)

    def exit_now(self, by: signal.Signals, why: str) -> None:
        """Ends this process without saving, from any thread."""
        if not self._over.acquire(blocking=False):
            _exit(128 + by)
        word = self._world.heartbeat.announced_exit()
        if word:
            _exit(self._record_lost_rank(word).code)
        message = f"stopped by {by.name}, {why}; " + self._remedy()
        if self._world.is_main:
            sys.stderr.write(message + "\n")
            self._write(128 + by, Stopped.reason, message, by=by, again=by in PREEMPTION_SIGNALS)
        _exit(128 + by)

    def _classify(self, error: BaseException) -> BaseException:
        """Finds what lies behind an error, and returns what is to be raised for it."""
        self._catch_up()
        act = self._world.heartbeat.state
        where = f"(on {act.host}, {act})"
        if isinstance(error, RuntimeError) and str(error).startswith(WORKER):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where PyTorch raises this, and would again
            error = DataError(worker_failed(error))
        elif ran_out_of_memory(error):
            error = OutOfMemory(memory_refused(error))
        elif isinstance(error, RuntimeError):
            loss = self._world.heartbeat.find_lost_rank()
            if loss:
                return self._record_lost_rank(loss)
        if isinstance(error, UserError):
            alike = not isinstance(error, RankError)
            if not alike:
                error.add_note(where)
            if not alike or self._world.is_main:
                passing = isinstance(error, (DataError, OutOfMemory))
                self._write(error.code, error.reason, str(error), again=passing and self._advanced)
            self._tell(str(error), error.code)
        elif isinstance(error, OSError) and error.filename is not None:
            error.add_note(where)
            self._write(EXIT_USER_ERROR, UserError.reason, f"{error.filename}: {error.strerror}")
            self._tell(f"{error.filename}: {error.strerror}", EXIT_USER_ERROR)
        else:
            line = f"{type(error).__name__}: {error}".splitlines()[0]
            sys.stderr.write(f"error: rank {act.rank} crashed: {line} {where}\n")
            self._write(EXIT_CRASH, "crash", line)
            self._tell(line, EXIT_CRASH)
        return error

    def _tell(self, line: str, code: int) -> None:
        rank = self._world.rank
        self._world.heartbeat.announce_exit(LostRank(f"rank {rank} on {socket.gethostname()}: {line}", rank, code))

    def _record_lost_rank(self, loss: LostRank) -> LostRankError:
        self._catch_up()
        self._world.heartbeat.announce_exit(loss)
        speaks = loss.speaker == self._world.rank
        if speaks:
            self._write(loss.code, LostRankError.reason, loss.line, again=self._advanced)
        error = LostRankError(f"{loss.line}; {self._remedy()}", speaks=speaks)
        error.code = loss.code
        return error

    def _abort(self, loss: LostRank) -> None:
        """Ends this process from a thread, since its main thread waits for a rank that won't come."""
        if not self._over.acquire(blocking=False):
            return
        error = self._record_lost_rank(loss)
        if error.speaks:
            sys.stderr.write(f"error: {error}\n")
        _exit(loss.code)

    def _remedy(self) -> str:
        start = f"from {self._checkpoint}" if self._checkpoint else "from the start"
        return f"the same command goes on {start}"

    def _write(
        self, code: int, reason: str, message: str, *, by: signal.Signals | None = None, again: bool = False
    ) -> None:
        """Writes the file, unless this run's end is written already."""
        ending = {
            "code": code,
            "reason": reason,
            "signal": by.name if by else None,
            "message": message,
            "requeue": again,
            "iteration": self._world.heartbeat.state.iteration,
            "checkpoint": str(self._checkpoint) if self._checkpoint else None,
            "restarts": self._world.restarts,
        }
        beside = self._file.with_name(f".{EXIT_FILE}.{self._world.rank}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("w", encoding="utf-8") as file:
                file.write(json.dumps(ending, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                self._file.hardlink_to(beside)  # unlike a rename, leaves what is there already
            finally:
                beside.unlink()
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTDIR):  # told already, or by the error at hand
                sys.stderr.write(f"warning: {self._file} can't be written: {error.strerror}\n")


def _may_pass(ending: dict[str, Any]) -> bool:
    """Says whether a run that ended so may get further on the same nodes."""
    return (
        ending["code"] == 0
        or ending["reason"] == LostRankError.reason
        or (ending["reason"] in (DataError.reason, OutOfMemory.reason) and ending["requeue"])
    )


def _exit(code: int) -> None:
    sys.stderr.flush()
    os._exit(code)
