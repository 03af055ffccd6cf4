"""Runs a network in one thread, on the pictures of several requests together."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch

from shards.format.images import Pixels

_STOP_SECONDS = 10.0


class _Waiting(NamedTuple):
    pixels: Pixels  # [H, W, 3]
    future: Future[torch.Tensor]


class BatchingNetwork:
    """Groups pictures into batches. While the network computes a batch, the next one fills up.

    Args:
        compute: returns a row for each of uint8[b, H, W, 3] pictures, on the CPU; called in one thread only.
        max_batch: pictures of a batch.
        max_wait: seconds for which the first picture of a batch waits for others.
    """

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor], max_batch: int, max_wait: float) -> None:
        self._compute = compute
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()  # None: the end
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def submit(self, pixels: Pixels) -> Future[torch.Tensor]:
        """Return the future row of a picture, uint8[H, W, 3]; it raises the errors of `compute`."""
        future: Future[torch.Tensor] = Future()
        self._waiting.put(_Waiting(pixels, future))
        return future

    def close(self) -> None:
        """Compute what was submitted, and end the thread."""
        self._waiting.put(None)
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._is_closed and (first := self._waiting.get()) is not None:
            batch = [each for each in self._collect(first) if each.future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _collect(self, first: _Waiting) -> list[_Waiting]:
        """Return a batch that begins with `first`."""
        batch = [first]
        deadline = time.monotonic() + self._max_wait
        while len(batch) < self._max_batch:
            try:
                following = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                self._is_closed = True
                break
            batch.append(following)
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            rows = self._compute(torch.from_numpy(np.stack([each.pixels for each in batch])))
        except Exception as error:  # noqa: BLE001 -- the requests report it, and the thread serves the next ones
            for each in batch:
                each.future.set_exception(error)
            return
        for each, row in zip(batch, rows, strict=True):
            each.future.set_result(row)
