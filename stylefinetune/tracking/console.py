"""Writes log lines to the console and to train.log in glog's format."""

import contextlib
import datetime as dt
import logging
import sys
from pathlib import Path

from stylefinetune.errors import write_error


class GlogFormatter(logging.Formatter):
    """Formats glog's line prefix: level, date, time, process, file and line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line such as `I0828 22:17:48.338963 11510 train.py:195] Optimization Done.`."""
        time = dt.datetime.fromtimestamp(record.created).astimezone()
        source = f"{record.filename}:{record.lineno}"
        return f"{record.levelname[0]}{time:%m%d %H:%M:%S.%f} {record.process} {source}] {record.getMessage()}"


class _LogFile(logging.FileHandler):
    """train.log. A write error ends the run with one line, where logging prints a traceback for each record."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        error = sys.exception()
        if not isinstance(error, OSError):
            return super().handleError(record)
        raise write_error(Path(self.baseFilename), error.strerror) from error


def open_log(path: Path, console: logging.Handler | None = None) -> logging.Logger:
    """Return the logger that writes to the console, which is stderr by default, and to `path`."""
    log = logging.getLogger("stylefinetune")
    log.setLevel(logging.INFO)
    log.propagate = False
    console = console or logging.StreamHandler(sys.stderr)
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
