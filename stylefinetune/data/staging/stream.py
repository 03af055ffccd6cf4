"""Copies the shards of a run from an object store ahead of their use, and removes those that have been read.

A run whose order reads each shard from front to back needs a few shards at a time. On each node, a separate process
copies the shards in the order of their use, as many as data.stage_bytes allows. Each rank of the node records up to
which position it has received its pictures; a shard that no later picture within the limit needs may be removed. A
decoding process that finds no copy waits for it.

All processes of a node use one folder, in which the ranks' positions are files. Each rank has a process that is ready
to copy; the one that holds the lock does it. If it dies, the kernel gives the lock to the next.
"""

import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable
from multiprocessing.util import Finalize
from pathlib import Path

from rich.filesize import decimal

from shards.format import ShardsError
from shards.format.index import Entries, ShardIndex
from shards.format.order import DataOrder
from stylefinetune.config.data import DataConfig
from stylefinetune.data.loader_worker import block_signals, start_worker
from stylefinetune.data.staging.index_copy import is_in_store
from stylefinetune.data.staging.shard_copier import LOCK_FILE, PART_SUFFIX, copy_error, copy_shard
from stylefinetune.data.staging.source import file_version, shard_source
from stylefinetune.data.staging.stream_plan import StreamPlan
from stylefinetune.errors import UserError

PREFIX = "stream-"
FAILURE_FILE = "failure"
_POSITIONS = "positions"
_SHARE = 0.8  # of the free space that copies may take by default
_POLL_SECONDS = 0.1
_EXIT_SECONDS = 20.0  # in which the copies of a finished run are removed


def is_streamed(config: DataConfig) -> bool:
    """Return whether the shards of the training split are copied while the run reads them."""
    reads_in_order = config.shuffle is False or config.shuffle_window > 0
    return is_in_store(config) and reads_in_order and config.resident is not True


def stream_folder(index: ShardIndex, run_dir: str) -> Path:
    """Return the folder of a run's copies on each node."""
    return index.root / f"{PREFIX}{hashlib.sha256(str(Path(run_dir).absolute()).encode()).hexdigest()[:16]}"


def stream_limit(config: DataConfig, index: ShardIndex, folder: Path, others: Iterable[str]) -> int:
    """Return how many bytes the copies of a stream may take, beside those of `others`, the shards for tests."""
    if config.stage_bytes is not None:
        return config.stage_bytes - sum((index.root / name).stat().st_size for name in others)
    present = sum(path.stat().st_size for path in folder.rglob("*.tar"))
    return int(_SHARE * (shutil.disk_usage(index.root).free + present))


def make_plan(index: ShardIndex, entries: Entries, order: DataOrder, batch_size: int, limit: int) -> StreamPlan:
    """Return the plan of a run that reads the pictures `entries` in `order`, with copies of `limit` bytes.

    Raises:
        UserError: the shards that are read at a time take more.
    """
    source = shard_source(index.root)
    sizes = {name: version[0] for name in entries.shard.distinct if (version := source.version(name))}
    plan = StreamPlan(order, entries.shard, batch_size, sizes)
    needed = plan.needed_bytes()
    if needed > limit:
        raise UserError(
            f"the shards that are read at a time need {decimal(needed)} in {index.root}, which may take "
            f"{decimal(max(limit, 0))} (data.stage_bytes); lower data.shuffle_window, raise data.stage_bytes, or set "
            "data.stage_dir to a larger disk"
        )
    return plan


class ShardStream:
    """A rank's part in the stream of its node."""

    def __init__(self, index: ShardIndex, plan: StreamPlan, folder: Path, limit: int, rank: int) -> None:
        self._copies = _Copies(index, plan, folder, limit)
        self._rank = rank
        self._file = -1
        self._stop = 0

    def start(self, start: int, stop: int) -> None:
        """Begin to copy the shards of the pictures at the positions from `start` to `stop`."""
        folder = self._copies.folder / _POSITIONS
        folder.mkdir(parents=True, exist_ok=True)
        (self._copies.folder / FAILURE_FILE).unlink(missing_ok=True)
        self._stop = stop
        self._file = os.open(folder / str(self._rank), os.O_RDWR | os.O_CREAT, 0o644)
        self.advance(start)
        fcntl.flock(self._file, fcntl.LOCK_SH)  # until this process has ended
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self._copies.serve, args=(start, stop), name="shard stream", daemon=True)
        self.process = process
        with block_signals():
            process.start()
        # When the run is finished, the process removes the copies; else they remain for the next start.
        Finalize(None, lambda: process.join(_EXIT_SECONDS if self._is_finished() else 0), exitpriority=1)

    def advance(self, position: int) -> None:
        """Record that the pictures before a position have been received."""
        os.pwrite(self._file, position.to_bytes(8, "little"), 0)

    def _is_finished(self) -> bool:
        return int.from_bytes(os.pread(self._file, 8, 0), "little") >= self._stop


class _Copies:
    """The copies of a node, as the process that holds the lock sees them."""

    def __init__(self, index: ShardIndex, plan: StreamPlan, folder: Path, limit: int) -> None:
        self.folder = folder
        self._index = index
        self._plan = plan
        self._limit = limit
        self._present: dict[str, int] = {}  # the bytes of the complete copies
        self._part = -1  # for which the shards in `_wanted` were found
        self._wanted: dict[str, None] = {}

    def serve(self, start: int, stop: int) -> None:
        """Copy and remove shards until all ranks of the node have read the last picture. Runs in a separate process."""
        start_worker(0)
        try:
            with (self.folder / LOCK_FILE).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._find_copies()
                while (position := self._lowest_position(start)) < stop:
                    if not self._copy_next(position, stop):
                        time.sleep(_POLL_SECONDS)
                shutil.rmtree(self.folder, ignore_errors=True)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not self.folder.exists():
                return  # another rank's process has removed it, at the end of the run
            self._fail(_describe(error, self.folder))
            if not isinstance(error, (UserError, ShardsError, OSError)):
                raise

    def _find_copies(self) -> None:
        """Find the copies of an earlier start, and remove what isn't complete."""
        source = shard_source(self._index.root)
        for part in self.folder.rglob(f"*{PART_SUFFIX}"):
            part.unlink()
        for path in self.folder.rglob("*.tar"):
            name = path.relative_to(self.folder).as_posix()
            version = file_version(path)
            if version and version == source.version(name):
                self._present[name] = version[0]
            else:
                path.unlink(missing_ok=True)

    def _lowest_position(self, start: int) -> int:
        """Return the lowest position of the ranks that are alive, each of which has locked its file."""
        positions: list[int] = []
        for path in (self.folder / _POSITIONS).iterdir():
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    positions.append(int.from_bytes(file.read(8), "little"))
        return min(positions, default=start)

    def _copy_next(self, position: int, stop: int) -> bool:
        """Copy the first shard that is missing; return whether there was one."""
        if self._part != (part := position // self._plan.part_size):
            self._part, self._wanted = part, dict.fromkeys(self._plan.shards_from(position, self._limit, stop))
        name = next((name for name in self._wanted if name not in self._present), None)
        if name is None:
            return False
        version = shard_source(self._index.root).version(name)
        assert version is not None
        unused = [other for other in self._present if other not in self._wanted]
        while unused and sum(self._present.values()) + version[0] > self._limit:
            del self._present[unused[0]]
            (self.folder / unused.pop(0)).unlink(missing_ok=True)
        for _ in copy_shard(self._index, name, self.folder, []):
            pass
        self._present[name] = version[0]
        return True

    def _fail(self, message: str) -> None:
        """Leave a message for the decoding processes that wait."""
        with contextlib.suppress(OSError):
            draft = self.folder / f"{FAILURE_FILE}.{os.getpid()}"
            draft.write_text(message, encoding="utf-8")
            draft.replace(self.folder / FAILURE_FILE)


def _describe(error: Exception, folder: Path) -> str:
    """Return the line for an error of the process that copies."""
    if isinstance(error, OSError):
        return str(copy_error(error, folder))
    if isinstance(error, ShardsError):  # the index was remade
        return f"data.shards: {error}"
    return str(error) if isinstance(error, UserError) else f"copying the shards has failed: {error!r}"
