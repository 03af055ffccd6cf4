"""Copies a run's shards to the local disk of each node, since random reads over a network are slow or impossible.

A copy is stored in STAGE_DIR/FINGERPRINT/train/00012.tar; the fingerprint is the index's. The copies of an object store
are beside the copy of its index (`stylefinetune.data.staging.index_copy`). Of all processes of a node, also of
different runs, the one that holds the lock copies (`stylefinetune.data.staging.shard_copier`). If it dies, the kernel
gives the lock to the next. All ranks synchronize once per second, so that each learns of the others' failures and none
waits for a lost rank.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from shards.format.index import Entries, ShardIndex
from shards.format.order import DataOrder
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config
from stylefinetune.data.staging.index_copy import is_in_store, shards_folder
from stylefinetune.data.staging.shard_copier import ShardCopier
from stylefinetune.data.staging.stream import ShardStream, is_streamed, make_plan, stream_folder, stream_limit
from stylefinetune.distributed.heartbeat import STARTING
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError

if TYPE_CHECKING:
    from rich.console import Console


class StreamedSet(Protocol):
    """The pictures of a split, and their order."""

    entries: Entries
    order: DataOrder


ROUND_SECONDS = 1.0  # time between two synchronizations of the ranks
LINE_INTERVAL = 30.0  # seconds between two log lines if there is no terminal
MAX_MESSAGE = 1000  # bytes of an error message sent to the other ranks


def fetch_index(config: DataConfig, world: World) -> None:
    """Copy the index and the mean picture of shards in an object store to each node; collective.

    Raises:
        UserError: a node can't copy them; the same message on every rank.
    """
    failure = None
    try:
        shards_folder(config)
    except UserError as error:
        failure = str(error)
    raise_first_failure(failure, world)


def stage_folder(index: ShardIndex, config: DataConfig) -> Path | None:
    """Return the folder of the copies on each node; None if the shards are read in place."""
    if is_in_store(config):
        return index.root
    return Path(config.stage_dir) / index.fingerprint[:16] if config.stage_dir else None


def stage_shards(
    index: ShardIndex,
    shards: Iterable[str],
    folder: Path,
    world: World,
    stop: Callable[[], signal.Signals | None] = lambda: None,
    limit: int | None = None,
) -> None:
    """Copy the named shards of `index` to `folder`, on the local disk of each node, unless they are there; collective.

    `stop`, also collective, is called once per second; it returns the signal for which all ranks stop, if any. The
    copies may take `limit` bytes.

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
    with contextlib.closing(ShardCopier(index, shards, folder, limit)) as copier, bar:
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


def open_stream(
    config: Config, index: ShardIndex, train_set: StreamedSet, test_set: StreamedSet | None, world: World
) -> ShardStream | None:
    """Return what copies the shards of the training split while the run reads them; None if they are there; collective.

    Raises:
        UserError: on a node, the copies of the shards that are read at a time don't fit.
    """
    if not is_streamed(config.data):
        return None
    folder, stream, failure = stream_folder(index, config.run_dir), None, None
    limit = stream_limit(config.data, index, folder, test_set.entries.shard.distinct if test_set else [])
    try:
        plan = make_plan(index, train_set.entries, train_set.order, config.data.batch_size, limit)
        stream = ShardStream(index, plan, folder, limit, world.rank)
    except UserError as error:
        failure = str(error)
    raise_first_failure(failure, world)
    return stream


def _copy_round(copier: ShardCopier, world: World) -> tuple[int, int, int, int]:
    """Copy for a second; return the number of unfinished and of copying ranks, and the bytes copied and in total."""
    world.set_activity("copying the shards", 0)
    failure = None
    try:
        copier.work(ROUND_SECONDS)
    except UserError as error:
        failure = str(error)
    raise_first_failure(failure, world)
    counts = [not copier.done, copier.has_lock, copier.copied, copier.total]
    unfinished, copying, copied, total = world.sum(torch.tensor(counts, dtype=torch.int64)).tolist()
    return unfinished, copying, copied, total


def raise_first_failure(failure: str | None, world: World) -> None:
    """Raise the error of the lowest rank that has failed, if any, on every rank; collective.

    Raises:
        UserError: a rank has failed; the message names its host.
    """
    first = int(world.min(torch.tensor(world.size if failure is None else world.rank)).item())
    if first == world.size:
        return
    message = f"{socket.gethostname()}: {failure}".encode()[:MAX_MESSAGE] if world.rank == first else b""
    characters = world.sum(torch.tensor(list(message.ljust(MAX_MESSAGE, b"\0"))))
    raise UserError(bytes(characters.tolist()).rstrip(b"\0").decode(errors="replace"))


def _print(console: "Console", line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
