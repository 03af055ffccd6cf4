"""Exit codes, and the errors that a command reports as one line instead of a traceback.

| code | meaning for `stylefinetune train` (the other commands use 0, 1, 2 and 130) |
|---|---|
| 0 | finished |
| 1 | crashed: a bug in this program, with its traceback; predict and features: some pictures cannot be read |
| 2 | a user's mistake, or a disk that is full or not writable |
| 3 | the loss or the weights are not finite |
| 4 | pictures cannot be read, or more are corrupt than data.max_corrupt allows |
| 5 | a rank died, stalled or ran out of memory, or the launcher is gone |
| 128 + n | stopped by signal n after saving a checkpoint: 129 SIGHUP, 130 SIGINT, 138 SIGUSR1, 143 SIGTERM |

torchrun turns every code except 0 into 1; RUN/exit.json (`stylefinetune.training.exit_record`) keeps the original code.
"""

import errno
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

EXIT_CRASH = 1
EXIT_USER_ERROR = 2
EXIT_NOT_FINITE = 3
EXIT_DATA = 4
EXIT_LOST_RANK = 5
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 128 + signal.SIGPIPE  # as if this signal had ended the program

_WRONG_PLACE = {  # reasons why a file can't be written that more disk space doesn't change
    os.strerror(code)
    for code in (
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    )
}
WORKER_ERROR = "DataLoader worker"  # part of PyTorch's message on a failed worker; its beginning if one was killed


class UserError(Exception):
    """An error that the user can fix. Every rank raises the same one.

    Attributes:
        code: exit code of the process.
        reason: the kind of error in a few words.
    """

    code = EXIT_USER_ERROR
    reason = "user error"


class RankError(UserError):
    """A UserError that a single rank may raise alone, such as a shard that its node cannot read."""


class NotFiniteError(UserError):
    """The loss of an iteration, or the weights after a number of iterations, are NaN or infinite."""

    code = EXIT_NOT_FINITE
    reason = "not finite"

    def __init__(self, message: str, iteration: int) -> None:
        super().__init__(message)
        self.iteration = iteration


class CorruptError(UserError):
    """More pictures are corrupt than data.max_corrupt allows."""

    code = EXIT_DATA
    reason = "data"


class DataError(RankError):
    """A rank cannot read its pictures."""

    code = EXIT_DATA
    reason = "data"


class RankOutOfMemoryError(RankError):
    """A rank ran out of memory."""

    code = EXIT_LOST_RANK
    reason = "out of memory"


class LostRankError(UserError):
    """Another rank died, stalled or failed, so this one cannot continue.

    Attributes:
        reports: whether this rank reports the loss: the lost rank if it can, otherwise the lowest remaining rank.
    """

    code = EXIT_LOST_RANK
    reason = "lost rank"

    def __init__(self, message: str, *, reports: bool) -> None:
        super().__init__(message)
        self.reports = reports


class Stopped(Exception):  # noqa: N818 -- not an error
    """A signal asked the run to stop, and its checkpoint is saved."""

    reason = "stopped"

    def __init__(self, by: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signal = by
        self.code = 128 + by


def write_error(path: Path, reason: str | None) -> RankError:
    """Return the error for a file that cannot be written, such as on a full disk."""
    remedy = "free some disk space, then run the same command again"
    if reason in _WRONG_PLACE:
        remedy = "choose a place where this file can be written"
    return RankError(f"{path} can't be written ({reason}); {remedy}")


def worker_error(error: Exception) -> RankError:
    """Return the error for the exception that PyTorch's DataLoader raises when a worker process fails or is killed.

    A worker's own exception is in the message with its traceback; the last line names it.
    """
    last_line = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(". ")
    if isinstance(error, (EOFError, ConnectionError)):  # raised if this is noticed before PyTorch notices the exit
        last_line = "it was killed or has exited"
    failed = f"a decoding process has failed: {last_line}"
    if os.strerror(errno.ENOSPC) in last_line:
        return RankError(f"{failed}; enlarge /dev/shm, or lower data.workers")
    return DataError(f"{failed}; out of memory or of open files? lower data.workers")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the system or a device refused to allocate memory.

    PyTorch raises a plain RuntimeError for its CPU allocator, cuDNN, NCCL and mapped files; Python raises one when a
    new thread gets no stack.
    """
    phrases = ("out of memory", "allocate memory", "ALLOC_FAILED", "can't start new thread")
    plain = isinstance(error, (RuntimeError, OSError)) and any(phrase in str(error) for phrase in phrases)
    # oneDNN names no reason if it gets no memory for the code of a layer that it is able to compute.
    is_onednn = isinstance(error, RuntimeError) and str(error) == "could not create a primitive"
    return plain or is_onednn or isinstance(error, MemoryError)


def out_of_memory_message(error: BaseException) -> str:
    """Return the line for an error that `is_out_of_memory` recognizes."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = re.sub(r"^\[.*?\]( \S+ == \S+\.)? ", "", first_line).rstrip(". ")
    return f"out of memory ({reason}); provide more memory, or lower data.batch_size and raise train.iter_size"


def joined_sizes(shape: Iterable[int]) -> str:
    """Write the sizes of a shape as messages do, for example 256x256x3."""
    return "x".join(map(str, shape))


def run_command(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Run `command(arguments)` and return the exit code of the process.

    Rank 0 alone prints a UserError, since every rank raises the same one. A RankError, or
    an OSError about a file, is printed by the rank that raised it. An error's notes follow it on the same line.
    """
    _escape_unencodable()
    try:
        try:
            command(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `stylefinetune predict ... | head`
        if not reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python would report the rest of its buffer
        return EXIT_CLOSED_PIPE
    except (UserError, Stopped, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:  # not about a file of the user
            raise
        message = _message(error)
        if message:
            sys.stderr.write(" ".join([message, *getattr(error, "__notes__", ())]) + "\n")
        return EXIT_USER_ERROR if isinstance(error, OSError) else error.code
    except KeyboardInterrupt:
        if _rank() == "0":
            sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    return 0


def reader_has_gone() -> bool:
    """Return whether nobody reads the pipe to which stdout is connected."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _escape_unencodable() -> None:
    """Let stdout and stderr print a character that their encoding lacks as a backslash escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a test or a notebook has replaced it
            stream.reconfigure(errors="backslashreplace")


def _message(error: UserError | Stopped | OSError) -> str:
    """Return what this rank prints for `error`; empty if another rank prints it."""
    if isinstance(error, OSError):
        return f"error: rank {_rank()}: {error.filename}: {error.strerror}"
    if isinstance(error, RankError):
        return f"error: rank {_rank()}: {error}"
    if isinstance(error, LostRankError):
        return f"error: {error}" if error.reports else ""
    if _rank() != "0":
        return ""
    return str(error) if isinstance(error, Stopped) else f"error: {error}"


def _rank() -> str:
    return os.environ.get("RANK") or "0"  # not checked yet
