"""Shows the progress of a command: a bar on a terminal, otherwise a line every ten seconds."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_INTERVAL = 10.0  # seconds
_RATE_WINDOW = 10.0  # seconds over which rates are averaged

DOWNLOADED = "downloaded"  # the status of rows whose response bodies are not packed yet
_ALIVE = (DOWNLOADED, "kept")

T = TypeVar("T")


def track_progress(
    items: Iterable[T],
    total: int,
    description: str,
    console: Console | None,
    count_of: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """Yield each item, and show how many of `total` there were and the time that remains.

    Args:
        items: the results of the work, as they are ready.
        total: the sum of `count_of` over them.
        description: for example "blocks read".
        console: where it is shown; None shows nothing.
        count_of: how much of `total` an item is.
    """
    if console is None:
        yield from items
        return
    started = time.monotonic()
    next_line, done = started + _LINE_INTERVAL, 0
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        for item in items:
            done += count_of(item)
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and now >= next_line:
                next_line = now + _LINE_INTERVAL
                remaining = (now - started) / done * (total - done) if done else None
                eta = "?" if remaining is None else f"{remaining:.0f} s"
                print_line(console, f"{done}/{total} {description}, ETA {eta}")
            yield item


class OutputConsole(Console):
    """A console that raises BrokenPipeError if the reader of its output has gone; rich's exits with code 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704 -- rich calls this where it catches the error


def print_line(console: Console, line: str) -> None:
    """Print a line as it is: not wrapped, not coloured and without markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


class ProgressLine:
    """Shows how many rows are finished, the rates, and the time that remains; use it in a `with`."""

    def __init__(
        self,
        console: Console,
        total: int,
        activity: str = "downloading",
        on_show: Callable[[Mapping[str, int], int], None] | None = None,
    ) -> None:
        """Prepare to count up to `total` rows; the bar shows `activity`, and `on_show` gets the counts and bytes."""
        self._console = console
        self._total = total
        self._on_show = on_show
        self._statuses: Counter[str] = Counter()
        self._size = 0
        self._started = time.monotonic()
        self._next_line = self._started + _LINE_INTERVAL
        self._bar = Progress(
            *(TextColumn(activity), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}")),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=_RATE_WINDOW,
            get_time=time.monotonic,
        )
        self._rows = self._bar.add_task("", total=total, state="")
        self._bytes = self._bar.add_task("", total=None, visible=False)  # only for its rate

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def count(self, statuses: Mapping[str, int], size: int = 0) -> None:
        """Add rows by status, and `size` bytes; {DOWNLOADED: -1, "corrupt": 1} moves a row that was counted."""
        self._statuses.update(statuses)
        self._size += size

    def show(self, describe_wait: Callable[[], str | None] = lambda: None) -> None:
        """Update the bar, or print a line if one is due.

        `describe_wait` returns what the rows wait for, if nothing is being done at this moment.
        """
        done = self._statuses.total()
        if self._on_show:
            self._on_show(self._statuses, self._size)
        self._bar.update(self._rows, completed=done)
        self._bar.update(self._bytes, completed=self._size)
        if self._console.is_terminal:
            self._bar.update(self._rows, state=self._state(done, describe_wait()))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_INTERVAL
            print_line(self._console, f"{done}/{self._total} files, {self._state(done, describe_wait())}")

    def _state(self, done: int, wait: str | None) -> str:
        alive = sum(self._statuses[status] for status in _ALIVE)
        counts = f"{alive} alive, {done - alive} dead"
        if done == self._total:
            return f"packing, {counts}"
        rows, size = self._bar.tasks
        seconds = rows.time_remaining
        if seconds is None and done:  # nothing was finished lately
            seconds = (time.monotonic() - self._started) / done * (self._total - done)
        remaining = "?" if seconds is None else f"{seconds:.0f} s"
        state = f"{rows.speed or 0:.0f} files/s, {decimal(int(size.speed or 0))}/s, {counts}, ETA {remaining}"
        return f"{state}; {wait}" if wait else state
