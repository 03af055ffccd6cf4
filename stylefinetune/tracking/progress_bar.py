"""A progress bar on a terminal, and log lines above it."""

import logging

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar(Progress):
    """A bar of the completed iterations on stderr; log lines scroll above it."""

    def __init__(self, start: int, max_iter: int) -> None:
        columns = TextColumn("iteration"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        super().__init__(*columns, console=Console(stderr=True))
        self._task = self.add_task("", total=max_iter, completed=start)
        self.start()

    def advance_to(self, completed: int) -> None:
        """Show that `completed` iterations are done."""
        self.update(self._task, completed=completed)


class BarHandler(logging.Handler):
    """Prints above the progress bar."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__()
        self._console = bar.console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
