"""Blocks on their way from list to tar, over a window of open ones: downloaded, packed and, of a URL, brought there."""

import collections
import concurrent.futures
import dataclasses
import datetime as dt
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shards.assembly.pack import PackJob, pack_block
from shards.assembly.worker_pool import check_interrupt, hold_interrupts
from shards.config.schema import AssembleConfig
from shards.download.downloader import Downloader
from shards.download.host_queue import Request
from shards.download.url_rewrite import is_web_url
from shards.format.outcomes import Outcome, Status
from shards.progress import ProgressLine
from shards.storage.session import ShardSession
from shards.storage.shard_dir import Block, ShardDir

# Rows of the blocks that are open at once. A block ends with its slowest row, which on a bad web takes most of a
# minute; meanwhile the others go on. Their bodies lie in DIR/.work until they are packed.
_OPEN_ROWS = 16_000
_POLL = 0.2  # seconds
_TRANSFERS = 4  # tars that go to or come from a URL at once


@dataclasses.dataclass(frozen=True)
class BlockTask:
    """A block of which rows are to be asked for.

    Attributes:
        block: which block.
        places: of those rows in it.
        is_committed: whether it has others already, which stay.
    """

    block: Block
    places: Sequence[int]
    is_committed: bool


@dataclasses.dataclass
class _OpenBlock:
    """A block whose rows are on their way.

    Attributes:
        todo: the block, and which of its rows are asked for.
        folder: where its bodies go.
        arrivals: what the rows that are asked for came to so far, by row.
    """

    todo: BlockTask
    folder: Path
    arrivals: dict[int, tuple[Outcome, Path | None]] = dataclasses.field(default_factory=dict)


class Pipeline:
    """Blocks on their way from list to tar: opened, downloaded, packed, and put where DIR is a URL."""

    def __init__(
        self,
        config: AssembleConfig,
        shard_dir: ShardDir,
        place: ShardSession,
        pool: ProcessPoolExecutor,
        downloader: Downloader,
        meter: ProgressLine,
        *,
        is_local: bool,
    ) -> None:
        self._config = config
        self._dir = shard_dir
        self._work = place.work
        self._storage = place.storage
        self._pool = pool
        self._transfers = ThreadPoolExecutor(_TRANSFERS)
        self._downloader = downloader
        self._meter = meter
        self._is_local = is_local
        self._open: dict[Block, _OpenBlock] = {}  # until all steps are done
        self._block_of: dict[int, Block] = {}
        self._steps: dict[Future[Any], Callable[[Any], None]] = {}  # and what each leads to

    def run(self, todo: Iterable[BlockTask]) -> None:
        """Sees every block through to its commit."""
        waiting = collections.deque(todo)
        try:
            while waiting or self._open:
                check_interrupt()
                while waiting and sum(map(self._weigh, self._open.values())) < _OPEN_ROWS:
                    self._begin(waiting.popleft())
                if self._downloader.is_busy:
                    for download in self._downloader.poll(_POLL):
                        self._settle(download.row, download.outcome, download.body)
                    self._finish(timeout=0)
                else:
                    self._finish(timeout=_POLL)
                self._meter.show()
        finally:
            self._transfers.shutdown(cancel_futures=True)

    def _weigh(self, opened: _OpenBlock) -> int:
        """Returns how many rows of the window a block takes; all of them where its whole tar may have to lie here."""
        return self._dir.size_of(opened.todo.block) if self._storage else len(opened.todo.places)

    def _begin(self, todo: BlockTask) -> None:
        block, rows = todo.block, self._dir.rows_of(todo.block)
        folder = self._work / block.shard.replace("/", "-")
        folder.mkdir()
        self._open[block] = _OpenBlock(todo, folder)
        asked = [rows[place] for place in todo.places]
        self._block_of |= {row["row"]: block for row in asked}
        requests: list[Request] = []
        for row in asked:
            if self._is_local:
                self._settle(row["row"], *_find_file(row["image_url"], self._config.max_bytes))
            elif not is_web_url(row["image_url"]):
                outcome = Outcome(Status.UNSUPPORTED_URL, dt.datetime.now(dt.UTC), message="not an http or https URL")
                self._settle(row["row"], outcome, None)
            else:
                requests.append(Request(row["row"], row["image_url"], folder))
        self._downloader.add(requests)

    def _settle(self, row: int, outcome: Outcome, body: Path | None) -> None:
        """Records what a row came to; the last one of a block sends it to be packed."""
        self._meter.count(alive=int(body is not None), dead=int(body is None), size=body.stat().st_size if body else 0)
        block = self._block_of.pop(row)
        opened = self._open[block]
        opened.arrivals[row] = (outcome, body)
        if len(opened.arrivals) < len(opened.todo.places):
            return
        if self._storage and opened.todo.is_committed and any(body for _, body in opened.arrivals.values()):
            with hold_interrupts():
                fetching = self._transfers.submit(self._storage.fetch_tar, block)
                self._steps[fetching] = lambda _: self._pack(block, opened)
        else:
            self._pack(block, opened)

    def _pack(self, block: Block, opened: _OpenBlock) -> None:
        packing = PackJob(
            root=self._dir.root,
            work=opened.folder,
            block=block,
            rows=self._dir.rows_of(block),
            arrivals=opened.arrivals,
            encode_format=self._config.encode_format,
            image_size=self._config.image_size,
            is_committed=opened.todo.is_committed,
        )
        with hold_interrupts():
            self._steps[self._pool.submit(pack_block, packing)] = functools.partial(self._put, block)

    def _put(self, block: Block, statuses: collections.Counter[Status]) -> None:
        if not self._storage:
            self._close(block, statuses)
            return
        with hold_interrupts():
            putting = self._transfers.submit(self._storage.put_block, block)
            self._steps[putting] = lambda _: self._close(block, statuses)

    def _close(self, block: Block, statuses: collections.Counter[Status]) -> None:
        opened = self._open.pop(block)
        came = sum(body is not None for _, body in opened.arrivals.values())
        self._meter.count(alive=statuses[Status.KEPT] - came, dead=came - statuses[Status.KEPT])
        shutil.rmtree(opened.folder)

    def _finish(self, timeout: float) -> None:
        """Has the blocks take their next step that have done one."""
        with hold_interrupts():  # one that is raised while a future is locked would leave it so, for ever
            done, _ = concurrent.futures.wait(self._steps, timeout, concurrent.futures.FIRST_COMPLETED)
            ended = [(self._steps[future], future.result()) for future in done]
        for future in done:
            del self._steps[future]
        for take_step, result in ended:
            take_step(result)


def _find_file(name: str, max_bytes: int) -> tuple[Outcome, Path | None]:
    """Looks for a Caffe list's local picture."""
    now = dt.datetime.now(dt.UTC)
    path = Path(name)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        return Outcome(Status.MISSING_FILE, now, message=str(error)), None
    if size > max_bytes:
        return Outcome(Status.TOO_LARGE, now, bytes=size, message=f"over max_bytes {max_bytes}"), None
    return Outcome(Status.KEPT, now), path
