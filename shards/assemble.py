"""The pipeline: a list's rows are downloaded, checked and packed, block by block, over a window of open blocks."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import errno
import os
import shlex
import shutil
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from shards import growth, journal, locks, merge, retry, sources, urls
from shards.blocks import Block, Recipe, ShardDir
from shards.config import AssembleConfig
from shards.download import Downloader
from shards.finalize import finalize, store_rules
from shards.hosts import Request
from shards.index import ShardsError
from shards.outcomes import Outcome, Status
from shards.pack import Packing, pack_block
from shards.progress import Meter
from shards.recurrence import Rules
from shards.rewriting import is_web_url
from shards.sources import Source
from shards.workers import interrupts_held, packing_pool

# Rows of the blocks that are open at once. A block ends with its slowest row, which on a bad web takes most of a
# minute; meanwhile the others go on. Their bodies lie in DIR/.work until they are packed.
_OPEN_ROWS = 16_000
_POLL = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class _Todo:
    """A block of which rows are to be asked for.

    Attributes:
        block: which block.
        places: of those rows in it.
        is_committed: whether it has others already, which stay.
    """

    block: Block
    places: Sequence[int]
    is_committed: bool


def assemble(config: AssembleConfig, console: Console) -> None:
    """Makes DIR from the list, or goes on where an earlier assembly stopped, and tells the console.

    Raises:
        ShardsError: the list, DIR or the machine is not as it must be; DIR is left so that the same command goes on.
    """
    if config.retry is not None:
        retry.parse(config.retry)  # refuses what isn't one, before anything is made
    source = sources.read_source(list(config.lists))
    recipe, choice = _read_recipe(config, source)
    rules = Rules(0 if source.is_local else config.placeholder_urls, config.drop_duplicates)
    partition = config.share
    task = f"-{partition.index}-of-{partition.count}" if partition else ""
    with locks.exclusive(config.out, partition, repr((recipe, rules))) as work, _full_disk_told(config.out):
        shard_dir = growth.open_or_create(config.out, recipe, work, source, choice)
        share = merge.share_of(shard_dir, partition)
        journal.recover(config.out, share)
        store_rules(config.out, rules, work)
        merge.begin(config.out, partition, work)
        todo = _plan(shard_dir, share, retry.begin(config.out, config.retry, work, task))
        images, total = sum(len(each.places) for each in todo), sum(map(shard_dir.size_of, share))
        _say(console, f"Downloading {images} images with {config.worker_count} workers...")
        if images < total:
            _say(console, f"{total - images} of {total} were done before; going on in {config.out}")
        if todo:
            _run(config, shard_dir, todo, work, Meter(console, images), is_local=source.is_local)
        ledger = merge.read_ledger(shard_dir, share) if partition else finalize(shard_dir, work)
        retry.end(config.out, task)
    _tell(console, ledger)
    if partition:
        command = f"python -m shards merge {shlex.quote(str(config.out))}"
        _say(console, f"Partition {config.partition} is done; when all {partition.count} are: {command}")


@contextlib.contextmanager
def _full_disk_told(root: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise ShardsError(
            f"{root}: the disk is full; what was packed is whole, and once there is room the same command goes on"
        ) from error


def _plan(shard_dir: ShardDir, share: Iterable[Block], again: retry.Retry | None) -> list[_Todo]:
    """Returns those blocks that lack rows, or have rows to be asked for again."""
    todo: list[_Todo] = []
    for block in share:
        committed, size = shard_dir.committed_rows(block), shard_dir.size_of(block)
        old = again.places(shard_dir.root, block) if again and committed else []
        places = [*old, *range(committed, size)] if old else range(committed, size)
        if places:
            todo.append(_Todo(block, places, is_committed=committed > 0))
    return todo


def _read_recipe(config: AssembleConfig, source: Source) -> tuple[Recipe, urls.Choice]:
    classes = urls.read_classes(config.classes)
    recipe = Recipe(
        list_sha256=source.sha256,
        images=config.images,
        seed=config.seed,
        labels=config.labels,
        test_share=config.test_share,
        encode_format=config.encode_format,
        image_size=0 if config.encode_format == "original" else config.image_size,
        rows_per_shard=config.rows_per_shard,
        classes=classes or (),
        split=config.split,
    )
    return recipe, urls.Choice(config.images, config.seed, config.labels, classes, config.test_share, config.split)


def _run(
    config: AssembleConfig, shard_dir: ShardDir, todo: list[_Todo], work: Path, meter: Meter, *, is_local: bool
) -> None:
    with packing_pool(min(config.worker_count, len(todo))) as pool, Downloader(config, work) as downloader, meter:
        _Pipeline(config, shard_dir, work, pool, downloader, meter, is_local=is_local).run(todo)


@dataclasses.dataclass
class _OpenBlock:
    """A block whose rows are on their way.

    Attributes:
        todo: the block, and which of its rows are asked for.
        rows: the list's, all of the block.
        folder: where its bodies go.
        arrivals: what the rows that are asked for came to so far, by row.
    """

    todo: _Todo
    rows: list[dict[str, Any]]
    folder: Path
    arrivals: dict[int, tuple[Outcome, Path | None]] = dataclasses.field(default_factory=dict)


class _Pipeline:
    """Blocks on their way from list to tar: opened, downloaded, packed."""

    def __init__(
        self,
        config: AssembleConfig,
        shard_dir: ShardDir,
        work: Path,
        pool: ProcessPoolExecutor,
        downloader: Downloader,
        meter: Meter,
        *,
        is_local: bool,
    ) -> None:
        self._config = config
        self._dir = shard_dir
        self._work = work
        self._pool = pool
        self._downloader = downloader
        self._meter = meter
        self._is_local = is_local
        self._open: dict[Block, _OpenBlock] = {}  # packing included
        self._block_of: dict[int, Block] = {}
        self._packing: dict[Future[collections.Counter[Status]], Block] = {}

    def run(self, todo: Iterable[_Todo]) -> None:
        """Sees every block through to its commit."""
        waiting = collections.deque(todo)
        while waiting or self._open:
            while waiting and sum(len(opened.todo.places) for opened in self._open.values()) < _OPEN_ROWS:
                self._begin(waiting.popleft())
            if self._downloader.is_busy:
                for download in self._downloader.poll(_POLL):
                    self._settle(download.row, download.outcome, download.body)
                self._finish(timeout=0)
            else:
                self._finish(timeout=_POLL)
            self._meter.show()

    def _begin(self, todo: _Todo) -> None:
        block, rows = todo.block, self._dir.rows_of(todo.block)
        folder = self._work / block.shard.replace("/", "-")
        folder.mkdir()
        self._open[block] = _OpenBlock(todo, rows, folder)
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
        if len(opened.arrivals) == len(opened.todo.places):
            packing = Packing(
                root=self._dir.root,
                work=opened.folder,
                block=block,
                rows=opened.rows,
                arrivals=opened.arrivals,
                encode_format=self._config.encode_format,
                image_size=self._config.image_size,
                is_committed=opened.todo.is_committed,
            )
            with interrupts_held():
                self._packing[self._pool.submit(pack_block, packing)] = block

    def _finish(self, timeout: float) -> None:
        """Closes the blocks that have been committed."""
        with interrupts_held():  # one that is raised while a future is locked would leave it so, for ever
            done, _ = concurrent.futures.wait(self._packing, timeout, concurrent.futures.FIRST_COMPLETED)
            ended = [(future, future.result()) for future in done]
        for future, statuses in ended:
            opened = self._open.pop(self._packing.pop(future))
            came = sum(body is not None for _, body in opened.arrivals.values())
            self._meter.count(alive=statuses[Status.KEPT] - came, dead=came - statuses[Status.KEPT])
            shutil.rmtree(opened.folder)


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


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _tell(console: Console, ledger: pa.Table) -> None:
    counts = collections.Counter(ledger.column("status").to_pylist())
    kept = counts.pop(Status.KEPT, 0)
    _say(console, f"Writing train/val for {kept} successfully downloaded images.")
    if counts:
        table = Table("what became of the rest", "images", box=None, header_style="", pad_edge=False)
        for status, count in counts.most_common():
            table.add_row(status, str(count))
        console.print(table)
