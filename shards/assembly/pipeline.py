"""Takes blocks through download, packing and, if DIR is a URL, upload, with several blocks open at once."""

import collections
import contextlib
import dataclasses
import datetime as dt
import functools
import itertools
import queue
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shards.assembly.pack import PackJob, Results, pack_block
from shards.assembly.worker_pool import check_interrupt, hold_interrupts
from shards.config.schema import AssembleConfig
from shards.download.body_slots import StoredBody
from shards.download.downloader import Downloader
from shards.download.host_queue import Request
from shards.download.url_rewrite import is_web_url
from shards.format.outcomes import Outcome, Status
from shards.local.picture_files import LocalPictures
from shards.progress import DOWNLOADED, ProgressLine
from shards.storage.session import ShardSession
from shards.storage.shard_dir import Block, ShardDir

# Rows of the blocks that are open at once. A block is complete with its slowest row, which can take a minute; the
# others continue meanwhile. Response bodies are stored in DIR/.work until they are packed.
_OPEN_ROWS = 16_000
_BODIES = "bodies"  # name of the file with a block's response bodies
_POLL = 0.2  # seconds
_MAX_TRANSFERS = 4  # parallel transfers to and from a URL
_UNSUPPORTED = "not an http or https URL; local pictures need a list of their own, given with --local"


@dataclasses.dataclass(frozen=True)
class BlockTask:
    """A block with rows to download."""

    block: Block
    positions: Sequence[int]  # positions of those rows in the block
    is_committed: bool  # whether the block has other rows, which are committed and stay


@dataclasses.dataclass
class _OpenBlock:
    """A block in progress."""

    task: BlockTask
    folder: Path  # folder for the response bodies
    results: Results = dataclasses.field(default_factory=dict)


class Pipeline:
    """A runner of assembly tasks; each step of a block is a future with a callback."""

    def __init__(
        self,
        config: AssembleConfig,
        shard_dir: ShardDir,
        session: ShardSession,
        pool: ProcessPoolExecutor,
        downloader: Downloader,
        progress: ProgressLine,
        local: LocalPictures | None = None,
    ) -> None:
        self._config = config
        self._dir = shard_dir
        self._work = session.work
        self._remote = session.remote
        self._pool = pool
        self._transfers = ThreadPoolExecutor(_MAX_TRANSFERS)
        self._downloader = downloader
        self._progress = progress
        self._local = local
        self._open: dict[Block, _OpenBlock] = {}
        self._block_of: dict[int, Block] = {}
        self._steps: dict[Future[Any], Callable[[Any], None]] = {}  # step: callback
        self._completed: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()  # of these steps

    def run(self, tasks: Iterable[BlockTask]) -> None:
        """Run all tasks until their blocks are committed."""
        waiting = collections.deque(tasks)
        try:
            while waiting or self._open:
                check_interrupt()
                while waiting and sum(map(self._count_rows, self._open.values())) < _OPEN_ROWS:
                    self._start(waiting.popleft())
                if self._downloader.is_busy:
                    for download in self._downloader.poll(_POLL):
                        self._add_result(download.row, download.outcome, download.body)
                    self._take_next_steps(timeout=0)
                else:
                    self._take_next_steps(timeout=_POLL)
                self._progress.show(self._downloader.describe_wait)
        finally:
            self._transfers.shutdown(cancel_futures=True)

    def _count_rows(self, opened: _OpenBlock) -> int:
        """Return a block's share of `_OPEN_ROWS`: all its rows for a URL, where its complete tar may be fetched."""
        return self._dir.size_of(opened.task.block) if self._remote else len(opened.task.positions)

    def _start(self, task: BlockTask) -> None:
        block, rows = task.block, self._dir.rows_of(task.block)
        folder = self._work / block.shard.replace("/", "-")
        folder.mkdir()
        self._open[block] = _OpenBlock(task, folder)
        wanted = [rows[position] for position in task.positions]
        self._block_of |= {row["row"]: block for row in wanted}
        requests: list[Request] = []
        for row in wanted:
            if self._local:
                self._add_result(row["row"], *self._local.take(row, folder))
            elif not is_web_url(row["image_url"]):
                outcome = Outcome(Status.UNSUPPORTED_URL, dt.datetime.now(dt.UTC), message=_UNSUPPORTED)
                self._add_result(row["row"], outcome, None)
            else:
                requests.append(Request(row["row"], row["image_url"], folder / _BODIES))
        self._downloader.add(requests)

    def _add_result(self, row: int, outcome: Outcome, body: Path | StoredBody | None) -> None:
        """Record a row's result; a block with all its results is packed."""
        size = body.length if isinstance(body, StoredBody) else body.stat().st_size if body else 0
        self._progress.count({_status_of(outcome, body): 1}, size)
        block = self._block_of.pop(row)
        opened = self._open[block]
        opened.results[row] = (outcome, body)
        if len(opened.results) < len(opened.task.positions):
            return
        if self._remote and opened.task.is_committed and any(body for _, body in opened.results.values()):
            self._begin_step(self._transfers, self._remote.fetch_tar, block, then=lambda _: self._pack(block, opened))
        else:
            self._pack(block, opened)

    def _pack(self, block: Block, opened: _OpenBlock) -> None:
        is_committed = opened.task.is_committed
        job = PackJob.create(
            self._dir,
            block,
            opened.folder,
            opened.results,
            is_committed=is_committed,
            is_trusted=self._local is not None,
        )
        self._begin_step(self._pool, pack_block, job, then=functools.partial(self._upload, block))

    def _upload(self, block: Block, statuses: collections.Counter[Status]) -> None:
        if not self._remote:
            self._close(block, statuses)
            return
        self._begin_step(self._transfers, self._remote.put_block, block, then=lambda _: self._close(block, statuses))

    def _close(self, block: Block, statuses: collections.Counter[Status]) -> None:
        opened = self._open.pop(block)
        changes = collections.Counter[str](statuses)
        changes.subtract(itertools.starmap(_status_of, opened.results.values()))
        self._progress.count(changes)
        shutil.rmtree(opened.folder)

    def _begin_step(
        self, executor: Executor, function: Callable[..., Any], argument: object, then: Callable[[Any], None]
    ) -> None:
        with hold_interrupts():
            step = executor.submit(function, argument)
            self._steps[step] = then
            step.add_done_callback(self._completed.put)

    def _take_next_steps(self, timeout: float) -> None:
        """Wait for a step to complete, and call the callbacks of all completed steps."""
        with contextlib.suppress(queue.Empty):
            while self._steps:
                step = self._completed.get(timeout > 0, timeout)
                callback, timeout = self._steps.pop(step), 0
                with hold_interrupts():  # an exception while a future is locked would leave it locked
                    result = step.result()
                callback(result)


def _status_of(outcome: Outcome, body: Path | StoredBody | None) -> str:
    """Return the status of a row whose block isn't packed yet."""
    return DOWNLOADED if body is not None else outcome.status
