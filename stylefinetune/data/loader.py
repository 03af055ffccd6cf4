"""Loads batches in order, in this process or in worker processes."""

import dataclasses
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.loader_worker import block_signals, start_worker
from stylefinetune.data.sampler import RankBatchSampler
from stylefinetune.errors import WORKER_ERROR, RankError, UserError, is_out_of_memory, worker_error


def load_batches(
    pictures: PictureDataset, sampler: RankBatchSampler, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Return an iterator over this rank's slices of the batches, in order.

    `workers` processes decode ahead; they start at once. Zero decodes in this process.

    Raises:
        RankError: the workers can't be started.
        UserError: a shard can't be read, or a worker has failed.
    """
    loader = DataLoader(
        cast("Dataset[Batch | UserError]", pictures),
        batch_sampler=cast("Any", sampler),  # PyTorch accepts any iterable of lists
        num_workers=workers,
        collate_fn=cast("Any", _to_shared_memory),  # __getitems__ returns a complete batch
        worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
    )
    return _add_sizes(_start(loader), sampler, workers)


def _start(loader: "DataLoader[Batch | UserError]") -> Iterator[Batch | UserError]:
    """Start the workers of a loader."""
    try:
        if loader.num_workers:
            tempfile.gettempdir()  # for the sockets over which workers send pictures
        with block_signals():
            return iter(loader)
    except OSError as error:
        if is_out_of_memory(error):
            raise
        _discard_half_started(error)
        raise RankError(
            f"{loader.num_workers} decoding processes can't be started ({error.strerror}); they need shared memory "
            "(a writable /dev/shm), a folder for temporary files (TMPDIR), open files (ulimit -n) and processes "
            "(ulimit -u); or decode without them: --data.workers 0"
        ) from error


def _discard_half_started(error: OSError) -> None:
    """Delete PyTorch's iterator without its message that it lacks attributes, since its constructor has failed."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(error.__traceback__)
    sys.unraisablehook = hook


def _add_sizes(decoded: Iterator[Batch | UserError], sampler: RankBatchSampler, workers: int) -> Iterator[Batch]:
    """Set `size` of each batch, and raise the errors of workers."""
    for size in sampler.sizes():
        try:
            batch = next(decoded)
        except Exception as error:
            if workers == 0 or (is_out_of_memory(error) and WORKER_ERROR not in str(error)):
                raise  # this process failed, not a worker
            batch = worker_error(error)
        if isinstance(batch, UserError):
            # PyTorch's handler would raise for the dead worker again, and interrupt PyTorch's own clean-up.
            handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            del decoded
            signal.signal(signal.SIGCHLD, handler)
            raise batch
        yield dataclasses.replace(batch, size=size)


def _to_shared_memory(batch: Batch | UserError) -> Batch | UserError:
    """Move a worker's batch to shared memory.

    PyTorch would do this later, in a thread whose errors are lost: without memory, the batch would never arrive.
    """
    if get_worker_info() is not None and isinstance(batch, Batch):
        crops = batch.crops
        for tensor in (batch.pictures, batch.labels, batch.positions, crops.top, crops.left, crops.mirror):
            if tensor.numel():  # an empty tensor can't be shared
                tensor.share_memory_()
    return batch
