"""Reads the pictures of a command's arguments: reports those that can't be read, and shows the progress."""

import contextlib
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stylefinetune.errors import EXIT_CRASH, UserError
from stylefinetune.prediction.inputs import Input
from stylefinetune.prediction.loader import PictureBatch, PictureLoader

_BAR_SECONDS = 2.0  # after which the bar appears


class UnreadablePicturesError(UserError):
    """Some pictures couldn't be read, and the others are done."""

    code = EXIT_CRASH
    reason = "pictures"


class PictureStream:
    """The pictures of all inputs, in their order, as batches; those that can't be read are reported on stderr.

    Args:
        inputs: where the pictures are.
        loader: reads them.
        bar: shows the progress.
    """

    def __init__(self, inputs: Sequence[Input], loader: PictureLoader, bar: "_Bar") -> None:
        self._inputs = inputs
        self._loader = loader
        self._bar = bar
        self._read = self._failed = 0

    def __iter__(self) -> Iterator[PictureBatch]:
        for batch in self._loader.load(picture for each in self._inputs for picture in each.find()):
            for name, reason in batch.failed:
                self._bar.print_line(f"error: {name} {reason}")
            if batch.names:
                yield batch
            self._read += len(batch.names)
            self._failed += len(batch.failed)
            self._bar.show(self._read + self._failed)

    def raise_failures(self) -> None:
        """Raise an error if a picture couldn't be read.

        Raises:
            UnreadablePicturesError: some pictures could not be read.
        """
        if self._failed:
            total = self._read + self._failed
            raise UnreadablePicturesError(f"{self._failed:,} of {total:,} pictures can't be read")


@contextlib.contextmanager
def read_pictures(inputs: Sequence[Input], loader: PictureLoader, *, show_bar: bool) -> Generator[PictureStream]:
    """Yield the stream of pictures. With `show_bar`, a long run shows a bar if stderr is a terminal."""
    with _Bar(inputs, show_bar=show_bar) as bar, loader:
        yield PictureStream(inputs, loader, bar)


class _Bar:
    """The number of pictures done, and the remaining time, on stderr."""

    def __init__(self, inputs: Sequence[Input], *, show_bar: bool) -> None:
        self._console = Console(stderr=True)
        self._started = time.monotonic()
        self._stopped = False
        self._bar: Progress | None = None
        self._total: int | None = None
        self._is_shown = show_bar and self._console.is_terminal
        if self._is_shown and all(each.is_repeatable for each in inputs):
            threading.Thread(target=self._count, args=(inputs,), name="count", daemon=True).start()

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int) -> None:
        """Show the number of pictures that are done."""
        if not self._is_shown or time.monotonic() - self._started < _BAR_SECONDS:
            return
        if self._bar is None:
            columns = (
                TextColumn("pictures"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("", total=None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=self._total)

    def print_line(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        else:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _count(self, inputs: Sequence[Input]) -> None:
        """Count the pictures, in a thread; a list of millions takes a while."""
        total = 0
        for each in inputs:
            for _ in each.find():
                if self._stopped:
                    return
                total += 1
        self._total = total
