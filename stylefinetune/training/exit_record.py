"""RUN/exit.json: how a run ended, for the script that starts it again. torchrun turns every failure into exit code 1.

    {"code": 143, "reason": "stopped", "signal": "SIGTERM", "message": "stopped by SIGTERM; ...", "requeue": true,
     "iteration": 41, "checkpoint": "runs/a/checkpoints/iter_41", "restarts": 0}

A run removes the file when it starts. The rank that reports the end writes it once, atomically: rank 0; the rank that
failed; or the lowest remaining rank if one died. There is no file while the run is under way, or if all processes were
killed at once, or if the command line could not be parsed.
"""

import dataclasses
import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Self

from stylefinetune.errors import DataError, LostRankError, RankOutOfMemoryError

EXIT_FILE = "exit.json"
PREEMPTION_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}  # sent by schedulers; SIGINT and SIGHUP are sent by people


@dataclasses.dataclass(frozen=True)
class ExitRecord:
    """The content of RUN/exit.json; the fields are its keys.

    Attributes:
        code: exit code, see `stylefinetune.errors`.
        reason: finished, stopped, user error, not finite, data, lost rank, out of memory or crash.
        signal: name of the signal that stopped the run.
        message: last line of the run.
        requeue: whether the same command would get further without a fix. True after SIGTERM and SIGUSR1. After a lost
            rank, a rank that ran out of memory, or data that one rank cannot read, true if this start has saved a
            checkpoint: a run that fails at the same iteration every time is not started forever. Otherwise false.
        iteration: iteration in which the run ended, or that is not finite.
        checkpoint: the newest good checkpoint, from which the same command continues; None if there is none.
        restarts: restarts by torchrun (--max_restarts) so far, summed over the ranks.
    """

    code: int
    reason: str
    signal: str | None
    message: str
    requeue: bool
    iteration: int
    checkpoint: str | None
    restarts: int

    @classmethod
    def read(cls, run_dir: Path) -> Self | None:
        """Read the record of the run's last end; None if there is no readable one."""
        try:
            return cls(**json.loads((run_dir / EXIT_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def restart_can_help(self) -> bool:
        """Whether ranks that torchrun restarts after this end may get further on the same nodes."""
        may_pass = self.reason in (DataError.reason, RankOutOfMemoryError.reason) and self.requeue
        return self.code == 0 or self.reason == LostRankError.reason or may_pass

    def write(self, run_dir: Path, rank: int) -> None:
        """Write the file unless another rank has written it."""
        file = run_dir / EXIT_FILE
        temporary = run_dir / f".{EXIT_FILE}.{rank}"
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            try:
                file.hardlink_to(temporary)  # unlike a rename, does not replace an existing file
            finally:
                temporary.unlink()
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTDIR):  # written already, or run_dir is the error reported
                sys.stderr.write(f"warning: {file} can't be written: {error.strerror}\n")
