"""Loads batches in order, in this process or in worker processes."""

import contextlib
import math
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from shards.format.order import DataOrder, RankBatchSampler
from stylefinetune.data.dataset import Batch, BatchColumns, PictureDataset
from stylefinetune.data.loader_worker import block_signals, kill_at_exit, start_worker
from stylefinetune.data.slot_ring import SlotRing
from stylefinetune.errors import WORKER_ERROR, RankError, UserError, is_out_of_memory, worker_error

PREFETCHED = 2  # batches per worker that are being decoded or wait for the rank

_Task: TypeAlias = tuple[int, Sequence[int], npt.NDArray[np.int64]]  # a slot, the positions of its pictures, their rows
_Answer: TypeAlias = tuple[int, int, BatchColumns] | UserError  # the slot, and the number of pictures in it
T = TypeVar("T")


def load_batches(
    pictures: PictureDataset, sampler: RankBatchSampler, workers: int, device: torch.device, at_once: int = 1
) -> Iterator[Batch]:
    """Return an iterator over this rank's slices of the batches, in order, from separate workers.

    The arguments and the errors are those of `BatchLoader`.
    """
    capacity = math.ceil(sampler.batch_size / sampler.world_size) + sampler.partners
    return BatchLoader(pictures, capacity, workers, device, at_once).load(sampler)


class BatchLoader:
    """Reads batches with worker processes, which exit when the loader and its iterators are deleted.

    The pictures are read straight into preallocated memory, and only slot numbers and small arrays cross the pipes. The
    memory of a batch is used again as soon as the batch is deleted.

    Args:
        pictures: what is read.
        capacity: largest number of pictures of a batch of this rank.
        workers: processes that decode ahead; they start at once. Zero decodes in this process.
        device: device on which the pictures of a batch are.
        at_once: number of batches that the caller uses at a time; the pictures of further batches are copied.

    Raises:
        RankError: the workers can't be started.
    """

    def __init__(
        self, pictures: PictureDataset, capacity: int, workers: int, device: torch.device, at_once: int = 1
    ) -> None:
        self._workers = workers
        self._crop_size = pictures.input_size
        # Beside those of the workers and of the caller, one to be filled next, and one that the caller is about to
        # delete: in a for loop, the next batch is loaded before the name of the previous one is assigned again.
        slots = PREFETCHED * workers + at_once + 2
        self._ring = SlotRing(slots, capacity, pictures.size, device)
        self._tasks = _Tasks(self._ring, pictures.order)
        with _ignore_number_of_cpus():
            self._decoders: DataLoader[_Answer] = DataLoader(
                cast("Dataset[_Answer]", _SlotFiller(pictures, self._ring)),
                batch_sampler=cast("Any", self._tasks),  # PyTorch accepts any iterable
                num_workers=workers,
                prefetch_factor=PREFETCHED if workers else None,
                collate_fn=_unchanged,
                worker_init_fn=start_worker,
                persistent_workers=workers > 0,
            )
            self._answers = _start(self._decoders)
        if device.type == "cuda":
            self._ring.pin()

    def load(self, sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return an iterator over this rank's slices of the batches, in order; it ends an earlier iterator.

        Raises:
            UserError: a shard can't be read, or a worker has failed.
        """
        self._tasks.sampler = sampler
        self._answers = self._call_workers(lambda: iter(self._decoders))
        return self._receive(sampler)

    def _receive(self, sampler: RankBatchSampler) -> Iterator[Batch]:
        for size in sampler.sizes():
            answer = self._call_workers(lambda: next(self._answers))
            if isinstance(answer, UserError):
                self._shut_down()
                raise answer
            slot, count, columns = answer
            # No name refers to the batch: after the caller has deleted it, its memory is used again.
            yield columns.with_pictures(self._ring.hand_out(slot, count), size, self._crop_size)

    def _call_workers(self, call: Callable[[], T]) -> T:
        """Call PyTorch's loader, and raise a UserError if a worker has failed."""
        try:
            return call()
        except Exception as error:
            if self._workers == 0 or (is_out_of_memory(error) and WORKER_ERROR not in str(error)):
                raise  # this process failed, not a worker
            failed = worker_error(error)
        self._shut_down()
        raise failed

    def _shut_down(self) -> None:
        # PyTorch's handler would raise for the dead worker again, and interrupt PyTorch's own clean-up.
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        del self._answers, self._decoders
        signal.signal(signal.SIGCHLD, handler)


class _Tasks:
    """A DataLoader's batch sampler: gives each batch of `sampler` a free slot.

    The rows are computed here, in the rank's process, since each process that computes them has a permutation of all.
    """

    sampler: RankBatchSampler | None = None  # the workers start without one

    def __init__(self, ring: SlotRing, order: DataOrder) -> None:
        self._ring = ring
        self._order = order

    def __iter__(self) -> Iterator[_Task]:
        self._ring.take_back()  # from an iterator that was not used up
        for positions in self.sampler or ():
            yield self._ring.take(), positions, self._order.rows_at(positions)


class _SlotFiller:
    """A DataLoader's dataset: reads the pictures of a task into its slot."""

    def __init__(self, pictures: PictureDataset, ring: SlotRing) -> None:
        self._pictures = pictures
        self._ring = ring

    def __getitems__(self, task: _Task) -> _Answer:
        """Return the filled slot, or the error: raised in a worker, it would be wrapped in a traceback."""
        slot, positions, rows = task
        count = len(positions)
        try:
            return slot, count, self._pictures.read(positions, rows, self._ring.view(slot, count))
        except UserError as error:
            return error


def _unchanged(answer: T) -> T:
    return answer


@contextlib.contextmanager
def _ignore_number_of_cpus() -> Generator[None]:
    """Don't warn of more workers than CPUs: the log shows whether the ranks wait for pictures."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")
        yield


def _start(decoders: "DataLoader[_Answer]") -> Iterator[_Answer]:
    """Start the workers of a loader."""
    try:
        with block_signals(), kill_at_exit():
            return iter(decoders)
    except OSError as error:
        if is_out_of_memory(error):
            raise
        _discard_half_started(error)
        raise RankError(
            f"{decoders.num_workers} decoding processes can't be started ({error.strerror}); they need shared memory "
            "(a writable /dev/shm), open files (ulimit -n) and processes (ulimit -u); or decode without them: "
            "--data.workers 0"
        ) from error


def _discard_half_started(error: OSError) -> None:
    """Delete PyTorch's iterator without its message that it lacks attributes, since its constructor has failed."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(error.__traceback__)
    sys.unraisablehook = hook
