"""RUN/metrics.jsonl: one JSON object per line with the metrics of an iteration.

An entry is flushed to the disk before the next checkpoint is published, not at once. After a power failure, entries
since the newest checkpoint may be missing; the resumed run writes them again.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from stylefinetune.errors import RankError, write_error

PHASES = ("train", "test")  # the other phases describe the process that logged them, not the run
AXES = ("epoch", "pictures")  # other measures of the training so far than the iteration


class MetricsFile:
    """Appends to metrics.jsonl. A run first drops the entries that it will write again; `kept` has the others.

    The run starts or resumes from iteration `start`, and does not repeat the tests of the iterations `tested`.
    """

    def __init__(self, path: Path, start: int, tested: list[int]) -> None:
        self._path = path
        self.kept = self._drop_repeated(start, tested) if path.exists() else []

    def append(self, iteration: int, phase: str, values: dict[str, Any]) -> dict[str, Any]:
        """Write an entry and return it."""
        entry = {"iteration": iteration, "phase": phase, **values, "time": round(time.time(), 3)}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
        except OSError as error:
            raise write_error(self._path, error.strerror) from error
        return entry

    def sync(self) -> None:
        """Flush the entries to the disk, if there are any."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self._path, error.strerror) from error

    def _drop_repeated(self, start: int, tested: list[int]) -> list[dict[str, Any]]:
        """Rewrite the file without repeated entries, and without lines that a kill or a power failure damaged.

        A kill truncates the last line. A power failure may leave zeros instead of what was not flushed.
        """
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            entries = [json.loads(line) for line in lines if line.endswith("\n") and "\0" not in line]
            kept = [entry for entry in entries if not _will_repeat(entry, start, tested)]
        except (ValueError, TypeError, KeyError) as error:
            raise RankError(
                f"{self._path} has a line that the run did not write ({error}); fix it, or move the file away"
            ) from error
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(map(_line, kept))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise write_error(self._path, error.strerror) from error
        return kept


def _will_repeat(entry: dict[str, Any], start: int, tested: list[int]) -> bool:
    """Return whether the run writes `entry` again; the checkpoint and test of `start` come before its iteration."""
    done = {"checkpoint": [start], "test": tested}.get(entry["phase"], [])
    return entry["iteration"] >= start and entry["iteration"] not in done


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
