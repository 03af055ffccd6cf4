"""Writes log lines to the console and to train.log in glog's format."""

import contextlib
import datetime as dt
import logging
import sys
from pathlib import Path
from typing import TextIO

from stylefinetune.errors import write_error


class GlogFormatter(logging.Formatter):
    """Formats glog's line prefix: level, date, time, process, file and line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line such as `I0828 22:17:48.338963 11510 train.py:195] Optimization Done.`."""
        time = dt.datetime.fromtimestamp(record.created).astimezone()
        source = f"{record.filename}:{record.lineno}"
        return f"{record.levelname[0]}{time:%m%d %H:%M:%S.%f} {record.process} {source}] {record.getMessage()}"


class _Console(logging.StreamHandler[TextIO]):
    """Stderr. An error of another part of the program goes on to the caller, where logging prints a traceback.

    PyTorch's handler of SIGCHLD may raise a RuntimeError about a decoding process anywhere, also in a line's output.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        error = sys.exception()
        if isinstance(error, RuntimeError):
            raise error
        super().handleError(record)


class _LogFile(logging.FileHandler):
    """train.log. A write error ends the run with one line, and any other error goes on to the caller."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 -- logging's name and parameter
        error = sys.exception()
        assert error is not None
        if isinstance(error, OSError):
            raise write_error(Path(self.baseFilename), error.strerror) from error
        raise error


def open_log(path: Path, console: logging.Handler | None = None) -> logging.Logger:
    """Return the logger that writes to the console, which is stderr by default, and to `path`."""
    log = logging.getLogger("stylefinetune")
    log.setLevel(logging.INFO)
    log.propagate = False
    console = console or _Console(sys.stderr)
    for handler in (console, _LogFile(path, encoding="utf-8")):
        handler.setFormatter(GlogFormatter())
        log.addHandler(handler)
    return log


def close_log(log: logging.Logger) -> None:
    """Remove and close the handlers that `open_log` added."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # the disk is full, and the error is reported already
            handler.close()
