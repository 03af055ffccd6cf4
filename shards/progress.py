"""How far a command is: a bar on a terminal, a line now and then elsewhere."""

import collections
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_LINE_INTERVAL = 10.0  # seconds
_RATE_WINDOW = 10.0  # seconds over which a rate is taken

T = TypeVar("T")


def watch(done: Iterable[T], total: int, what: str, console: Console) -> Iterator[T]:
    """Passes on what gets done, one by one, and shows how many of `total` it was; `what` is such as "blocks read"."""
    next_line = time.monotonic() + _LINE_INTERVAL
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        for count, one in enumerate(done, start=1):
            bar.update(task, completed=count)
            if not console.is_terminal and time.monotonic() >= next_line:
                next_line = time.monotonic() + _LINE_INTERVAL
                console.print(f"{count}/{total} {what}", highlight=False, soft_wrap=True)
            yield one


class ProgressLine:
    """Counts rows as they end, and shows it; use it in a `with`."""

    def __init__(self, console: Console, total: int) -> None:
        """Prepares to count up to `total` rows."""
        self._console = console
        self._total = total
        self._alive = self._dead = self._bytes = 0
        self._start = time.monotonic()
        self._history = collections.deque([(self._start, 0, 0)])
        self._next_line = self._start + _LINE_INTERVAL
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
        """Adds rows that came alive or dead, and `size` bytes; a row that died later is alive=-1, dead=1."""
        self._alive += alive
        self._dead += dead
        self._bytes += size

    def show(self) -> None:
        """Shows the counts as they are."""
        now = time.monotonic()
        done = self._alive + self._dead
        if now - self._history[-1][0] >= 0.5:
            self._history.append((now, done, self._bytes))
        while len(self._history) > 1 and now - self._history[1][0] > _RATE_WINDOW:
            self._history.popleft()
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, state=self._state(now))
        elif now >= self._next_line:
            self._next_line = now + _LINE_INTERVAL
            self._console.print(f"{done}/{self._total} files, {self._state(now)}", highlight=False, soft_wrap=True)

    def _state(self, now: float) -> str:
        then, done_then, bytes_then = self._history[0]
        seconds = max(now - then, 1e-3)
        done = self._alive + self._dead
        if done == self._total:
            return f"packing, {self._alive} alive, {self._dead} dead"
        files_rate = (done - done_then) / seconds
        left = f"{(self._total - done) / files_rate:.0f} s" if files_rate else "?"
        bytes_rate = decimal(int((self._bytes - bytes_then) / seconds))
        return f"{files_rate:.0f} files/s, {bytes_rate}/s, {self._alive} alive, {self._dead} dead, ETA {left}"
