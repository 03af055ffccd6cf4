"""Copies a run's shards to the local disk of each node, since random reads from a network file system are slow.

A copy is stored in STAGE_DIR/FINGERPRINT/train/00012.tar; the fingerprint is the index's. Of all processes of a node,
also of different runs, the one that holds the lock copies (`stylefinetune.data.shard_copier`). If it dies, the kernel
gives the lock to the next. All ranks synchronize once per second, so that each learns of the others' failures and none
waits for a lost rank.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shards.format.index import ShardIndex
from stylefinetune.config.data import DataConfig
from stylefinetune.data.shard_copier import ShardCopier
from stylefinetune.distributed.heartbeat import STARTING
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError

if TYPE_CHECKING:
    from rich.console import Console

ROUND_SECONDS = 1.0  # time between two synchronizations of the ranks
LINE_INTERVAL = 30.0  # seconds between two log lines if there is no terminal
MAX_MESSAGE = 1000  # bytes of an error message sent to the other ranks


def stage_folder(index: ShardIndex, config: DataConfig) -> Path | None:
    """Return the folder of the copies on each node; None if the shards are read in place."""
    return Path(config.stage_dir) / index.fingerprint[:16] if config.stage_dir else None


def stage_shards(
    index: ShardIndex,
    shards: Iterable[str],
    folder: Path,
    world: World,
    stop: Callable[[], signal.Signals | None] = lambda: None,
) -> None:
    """Copy the named shards of `index` to `folder`, on the local disk of each node, unless they are there; collective.

    `stop`, also collective, is called once per second; it returns the signal for which all ranks stop, if any.

    Raises:
        UserError: a node can't copy them; the same message on every rank.
        Stopped: the run was asked to stop; complete copies remain.
    """
    # Only runs that copy shards need them.
    from rich.console import Console  # noqa: PLC0415
    from rich.filesize import decimal  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    console = Console(stderr=True, quiet=not world.is_main)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    task = bar.add_task("", total=None)
    start = time.monotonic()
    next_line = start + LINE_INTERVAL
    with contextlib.closing(ShardCopier(index, shards, folder)) as copier, bar:
        while True:
            unfinished, copying, copied, total = _copy_round(copier, world)
            if not unfinished:
                break
            by = stop()
            if by:
                line = f"stopped by {by.name} while copying the shards"
                raise Stopped(by, f"{line}; run the same command again to continue")
            what = f"copying the shards to {folder}" if copying else "waiting for another run's copy of the shards"
            bar.update(task, completed=copied, total=total or None, description=what)
            if not console.is_terminal and time.monotonic() >= next_line:
                next_line = time.monotonic() + LINE_INTERVAL
                _print(console, f"{what}: {decimal(copied)} of {decimal(total)}" if copying else what)
    seconds = time.monotonic() - start
    done = f"copied in {seconds:.1f} s: {decimal(copied)}" if copied else "already copied"
    _print(console, f"shards in {folder} {done}")
    world.set_activity(STARTING, 0)


def _copy_round(copier: ShardCopier, world: World) -> tuple[int, int, int, int]:
    """Copy for a second; return the number of unfinished and of copying ranks, and the bytes copied and in total."""
    world.set_activity("copying the shards", 0)
    failure = None
    try:
        copier.work(ROUND_SECONDS)
    except UserError as error:
        failure = f"{socket.gethostname()}: {error}"
    counts = [failure is not None, not copier.done, copier.has_lock, copier.copied, copier.total]
    failed, unfinished, copying, copied, total = world.sum(torch.tensor(counts, dtype=torch.int64)).tolist()
    if failed:
        raise UserError(_first_failure(failure, world))
    return unfinished, copying, copied, total


def _first_failure(failure: str | None, world: World) -> str:
    """Return the message of the lowest rank that has failed; collective."""
    first = world.min(torch.tensor(world.rank if failure else world.size)).item()
    message = failure.encode()[:MAX_MESSAGE] if failure and world.rank == first else b""
    characters = world.sum(torch.tensor(list(message.ljust(MAX_MESSAGE, b"\0"))))
    return bytes(characters.tolist()).rstrip(b"\0").decode(errors="replace")


def _print(console: "Console", line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
