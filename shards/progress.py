"""Shows the progress of a command: a bar on a terminal, otherwise a line every ten seconds."""

import collections
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_LINE_INTERVAL = 10.0  # seconds
_RATE_WINDOW = 10.0  # seconds over which rates are averaged
_SAMPLE_INTERVAL = 0.5  # seconds

T = TypeVar("T")


def track_progress(items: Iterable[T], total: int, description: str, console: Console) -> Iterator[T]:
    """Yield each item and show how many of `total` there were; `description` is, for example, "blocks read"."""
    next_line = time.monotonic() + _LINE_INTERVAL
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        for count, item in enumerate(items, start=1):
            bar.update(task, completed=count)
            if not console.is_terminal and time.monotonic() >= next_line:
                next_line = time.monotonic() + _LINE_INTERVAL
                console.print(f"{count}/{total} {description}", highlight=False, soft_wrap=True)
            yield item


class ProgressLine:
    """Shows how many rows are finished, the rates, and the time that remains; use it in a `with`."""

    def __init__(self, console: Console, total: int) -> None:
        """Prepare to count up to `total` rows."""
        self._console = console
        self._total = total
        self._alive = self._dead = self._bytes = 0
        start = time.monotonic()
        self._history = collections.deque([(start, 0, 0)])  # time, rows, bytes
        self._next_line = start + _LINE_INTERVAL
        columns = (TextColumn("downloading"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, state="")

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def count(self, *, alive: int = 0, dead: int = 0, size: int = 0) -> None:
        """Add rows with and without a picture, and `size` bytes; alive=-1, dead=1 moves a row that was counted."""
        self._alive += alive
        self._dead += dead
        self._bytes += size

    def show(self) -> None:
        """Update the bar, or print a line if one is due."""
        now = time.monotonic()
        rows = self._alive + self._dead
        if now - self._history[-1][0] >= _SAMPLE_INTERVAL:
            self._history.append((now, rows, self._bytes))
        while len(self._history) > 1 and now - self._history[1][0] > _RATE_WINDOW:
            self._history.popleft()
        if self._console.is_terminal:
            self._bar.update(self._task, completed=rows, state=self._state(now))
        elif now >= self._next_line:
            self._next_line = now + _LINE_INTERVAL
            self._console.print(f"{rows}/{self._total} files, {self._state(now)}", highlight=False, soft_wrap=True)

    def _state(self, now: float) -> str:
        rows = self._alive + self._dead
        if rows == self._total:
            return f"packing, {self._alive} alive, {self._dead} dead"
        then, rows_then, bytes_then = self._history[0]
        seconds = max(now - then, 1e-3)
        rate = (rows - rows_then) / seconds
        remaining = f"{(self._total - rows) / rate:.0f} s" if rate else "?"
        bytes_rate = decimal(int((self._bytes - bytes_then) / seconds))
        return f"{rate:.0f} files/s, {bytes_rate}/s, {self._alive} alive, {self._dead} dead, ETA {remaining}"
