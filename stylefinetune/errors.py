"""How a command ends: its exit codes, and the errors that are one line instead of a traceback.

| code | of `python -m stylefinetune.train` (the other commands know 0, 1, 2 and 130) |
|---|---|
| 0 | finished |
| 1 | crashed: a bug of ours, with its traceback |
| 2 | a mistake of the user's, or a disk that is full or refuses |
| 3 | the loss or the weights aren't finite |
| 4 | pictures can't be read, or more are corrupt than data.max_corrupt allows |
| 5 | a rank died, stalled or ran out of memory, or the launcher is gone |
| 128 + n | stopped by signal n, what was done is saved: 129 SIGHUP, 130 SIGINT, 138 SIGUSR1, 143 SIGTERM |

torchrun turns every one but 0 into 1; `stylefinetune.training.exit_record` keeps the true one in RUN/exit.json.
"""

import os
import re
import signal
import sys
from collections.abc import Callable

EXIT_CRASH = 1
EXIT_USER_ERROR = 2
EXIT_NOT_FINITE = 3
EXIT_DATA = 4
EXIT_LOST_RANK = 5
EXIT_INTERRUPTED = 130

WORKER = "DataLoader worker"  # in what PyTorch says of one that failed, and where that begins if it was killed


class UserError(Exception):
    """Something that the user must mend; every rank of the run sees it alike.

    Attributes:
        code: the process's exit code.
        reason: the same in a word or two.
    """

    code = EXIT_USER_ERROR
    reason = "user error"


class RankError(UserError):
    """A UserError that one rank may meet alone, such as a shard that its node can't read."""


class NotFiniteError(UserError):
    """The loss or the weights are NaN or infinite."""

    code = EXIT_NOT_FINITE
    reason = "not finite"


class CorruptError(UserError):
    """More pictures are corrupt than a run puts up with."""

    code = EXIT_DATA
    reason = "data"


class DataError(RankError):
    """One rank can't read its pictures."""

    code = EXIT_DATA
    reason = "data"


def worker_failed(error: Exception) -> str:
    """Returns the line for what PyTorch's DataLoader raises when a decoding process fails or is killed.

    A process's own error comes with its traceback folded into the message, whose last line says what it was.
    """
    said = str(error).strip().splitlines()[-1].rstrip(". ")
    return f"a decoding process has failed: {said}; out of memory? lower data.workers"


class OutOfMemory(RankError):  # noqa: N818 -- MemoryError and torch.OutOfMemoryError are what it stands for
    """One rank has no room for what it needs."""

    code = EXIT_LOST_RANK
    reason = "out of memory"


def ran_out_of_memory(error: BaseException) -> bool:
    """Says whether an error is the system's, or a device's, refusal of more memory.

    PyTorch raises plain RuntimeErrors for what its allocator on CPUs, cuDNN, NCCL or a mapped file are refused, and
    Python one for a thread's stack.
    """
    refused = ("out of memory", "allocate memory", "ALLOC_FAILED", "can't start new thread")
    told = isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in refused)
    return told or isinstance(error, MemoryError)


def memory_refused(error: BaseException) -> str:
    """Returns the line for such an error."""
    said = re.sub(r"^\[.*?\]( \S+ == \S+\.)? ", "", (str(error).strip() or type(error).__name__).splitlines()[0])
    return f"out of memory ({said.rstrip('. ')}); give it more, or lower data.batch_size and raise train.iter_size"


class LostRankError(UserError):
    """Another rank died, stalled or failed, so that this one can't go on.

    Attributes:
        speaks: whether it is this rank that tells of it: the lowest one left, unless the lost one has told it itself.
    """

    code = EXIT_LOST_RANK
    reason = "lost rank"

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class Stopped(Exception):  # noqa: N818 -- nothing is wrong
    """The run was asked to stop, and has saved what was done."""

    reason = "stopped"

    def __init__(self, by: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signal = by
        self.code = 128 + by


def run_command(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Runs `command(arguments)` and returns the process's exit code.

    A UserError becomes one line on stderr: from rank 0 alone, since all ranks meet it alike; a RankError, or a file
    that the system refuses, from the rank that met it. An error's notes follow it on its line.
    """
    try:
        command(arguments)
    except (UserError, Stopped) as error:
        line = _line(error)
        if line:
            sys.stderr.write(f"{line}\n")
        return error.code
    except OSError as error:
        if error.filename is None:  # not about a file of the user's
            raise
        notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        sys.stderr.write(f"error: rank {_rank()}: {error.filename}: {error.strerror}{notes}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        if _rank() == 0:
            sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    return 0


def _line(error: UserError | Stopped) -> str:
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, RankError):
        return f"error: rank {_rank()}: {error}{notes}"
    if isinstance(error, LostRankError):
        return f"error: {error}{notes}" if error.speaks else ""
    if _rank() != 0:
        return ""
    return f"{error}{notes}" if isinstance(error, Stopped) else f"error: {error}{notes}"


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
