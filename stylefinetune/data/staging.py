"""Copies a run's shards to each node's own disk, since reads at random are slow on a network file system.

A copy lies at STAGE_DIR/FINGERPRINT/train/00012.tar, the fingerprint being the index's. Of the processes of a node, be
they one run's or several's, whoever has the lock copies (`stylefinetune.data.shard_copier`), and the kernel gives it to the next
when that one dies. All ranks meet every second, so that each hears of the others' failures, and none waits for one that
is gone.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from shards.format.index import ShardIndex
from stylefinetune.config.data import DataConfig
from stylefinetune.data.shard_copier import ShardCopier
from stylefinetune.distributed.heartbeat import STARTING
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError

ROUND = 1.0  # seconds of work between two meetings of the ranks
LINE_INTERVAL = 30.0  # seconds between two lines where there is no terminal
LONGEST_LINE = 1000  # bytes that a rank may tell the others


def stage_folder(index: ShardIndex, config: DataConfig) -> Path | None:
    """Returns where the shards of `index` are copied to on each node; None where they are read in place."""
    return Path(config.stage_dir) / index.fingerprint[:16] if config.stage_dir else None


def stage_shards(
    index: ShardIndex,
    shards: Iterable[str],
    folder: Path,
    world: World,
    stop: Callable[[], signal.Signals | None] = lambda: None,
) -> None:
    """Sees that each node's `folder` holds these shards of `index`; collective.

    Args:
        index: says what they hold.
        shards: their names.
        folder: on the node's own disk.
        world: the ranks.
        stop: asked every second for the signal, if any, that all ranks are to stop for; collective.

    Raises:
        UserError: one node can't copy them; the same line on every rank.
        Stopped: the run was asked to stop; the shards that are whole stay.
    """
    with contextlib.closing(ShardCopier(index, shards, folder)) as copier, _Bar(folder, world) as bar:
        while True:
            world.set_activity("copying the shards", 0)
            failure = None
            try:
                copier.work(ROUND)
            except UserError as error:
                failure = f"{socket.gethostname()}: {error}"
            counts = [not copier.done, failure is not None, copier.has_lock, copier.copied, copier.total]
            left, failed, copying, copied, total = world.sum(torch.tensor(counts, dtype=torch.float64)).tolist()
            if failed:
                raise UserError(_first(failure, world))
            if not left:
                bar.end(copied)
                break
            by = stop()
            if by:
                raise Stopped(by, f"stopped by {by.name} while copying the shards; the same command goes on")
            bar.show(copied, total, waiting=not copying)
    world.set_activity(STARTING, 0)


def _first(failure: str | None, world: World) -> str:
    """Returns the failure of the lowest rank that has one."""
    speaker = world.min(torch.tensor(world.rank if failure else world.size)).item()
    line = failure.encode()[:LONGEST_LINE] if failure and world.rank == speaker else b""
    letters = world.sum(torch.tensor(list(line.ljust(LONGEST_LINE, b"\0"))))
    return bytes(letters.tolist()).rstrip(b"\0").decode(errors="replace")


class _Bar:
    """How far all nodes together are: a bar on a terminal, a line now and then elsewhere; the lead's alone."""

    def __init__(self, folder: Path, world: World) -> None:
        self._folder = folder
        self._speaks = world.is_main
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        hidden = not (self._speaks and self._console.is_terminal)
        self._bar = Progress(*columns, console=self._console, disable=hidden, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._start = self._told = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, copied: float, total: float, *, waiting: bool) -> None:
        """Shows bytes; or that it is another run's process that copies."""
        what = "waiting for another run's copy of the shards" if waiting else f"copying the shards to {self._folder}"
        self._bar.update(self._task, completed=copied, total=total or None, description=what)
        if time.monotonic() - self._told >= LINE_INTERVAL and not self._console.is_terminal:
            self._say(what if waiting else f"{what}: {decimal(int(copied))} of {decimal(int(total))}")

    def end(self, copied: float) -> None:
        """Tells what was done."""
        seconds = time.monotonic() - self._start
        done = f"copied in {seconds:.1f} s: {decimal(int(copied))}" if copied else "there already"
        self._say(f"shards in {self._folder} {done}")

    def _say(self, line: str) -> None:
        self._told = time.monotonic()
        if self._speaks:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
