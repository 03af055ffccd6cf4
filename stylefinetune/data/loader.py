"""Loads batches in order, in this process or in worker processes."""

import dataclasses
import signal
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.loader_worker import hold_signals, start_worker
from stylefinetune.data.sampler import BatchSlices
from stylefinetune.errors import WORKER, DataError, UserError, ran_out_of_memory, worker_failed


def load_batches(pictures: PictureDataset, slices: BatchSlices, workers: int, device: torch.device) -> Iterator[Batch]:
    """Yields this rank's slice of each batch in order, decoded ahead by `workers` processes, which start at once.

    Raises:
        UserError: a shard can't be read, or a worker has failed.
    """
    loader = DataLoader(
        cast("Dataset[Batch | UserError]", pictures),
        batch_sampler=cast("Any", slices),  # any iterable of lists will do
        num_workers=workers,
        collate_fn=cast("Any", _share),  # __getitems__ has made the batch already
        worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
    )
    with hold_signals():
        decoded = iter(loader)
    return _in_order(decoded, slices, workers)


def _in_order(decoded: Iterator[Batch | UserError], slices: BatchSlices, workers: int) -> Iterator[Batch]:
    for size in slices.sizes():
        try:
            batch = next(decoded)
        except Exception as error:
            if workers == 0 or (ran_out_of_memory(error) and WORKER not in str(error)):
                raise  # it is this very process that has failed
            batch = DataError(worker_failed(error))
        if isinstance(batch, UserError):
            # PyTorch's handler complains of a dead worker at each signal to come, and breaks off its own tidying so.
            handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            del decoded
            signal.signal(signal.SIGCHLD, handler)
            raise batch
        yield dataclasses.replace(batch, size=size)


def _share(batch: Batch | UserError) -> Batch | UserError:
    """Puts a worker's batch where its rank sees it.

    PyTorch would do so later, in a thread whose errors get lost: where memory is short the batch would never come.
    """
    if get_worker_info() is not None and isinstance(batch, Batch):
        crops = batch.crops
        for tensor in (batch.pictures, batch.labels, batch.positions, crops.top, crops.left, crops.mirror):
            if tensor.numel():  # an empty one can't be shared, and needn't
                tensor.share_memory_()
    return batch
