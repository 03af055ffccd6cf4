"""Computes accuracy and loss over test batches, summed over the ranks."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence

import torch

from stylefinetune.config.train import LossFunction
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch
from stylefinetune.distributed.heartbeat import LostRank
from stylefinetune.distributed.world import World
from stylefinetune.tracking.metrics import TestAccumulator, TestResult


@contextlib.contextmanager
def exit_if_lost(world: World) -> Generator[None]:
    """End this process with one line if a rank stalls or dies in the context; a run has an ExitHandler instead."""

    def exit_now(lost: LostRank) -> None:
        if lost.reporter == world.rank:
            sys.stderr.write(f"error: {lost.message}\n")
            sys.stderr.flush()
        os._exit(lost.code)

    world.monitor.on_lost_rank = exit_now
    try:
        yield
    finally:
        world.monitor.on_lost_rank = None


def evaluate_batches(
    forwards: Sequence[Callable[[Batch], torch.Tensor]],
    batches: Iterable[Batch],
    corrupt: CorruptPictures,
    world: World,
    should_stop: Callable[[], bool] = lambda: False,
    function: LossFunction = "softmax",
) -> list[TestResult] | None:
    """Evaluate `batches`, slices of this rank, with the logits of each of `forwards` and a loss function; collective.

    `corrupt` collects the pictures that cannot be decoded, which the results do not count.

    Returns:
        A result for each of `forwards`, the same on each rank; None if `should_stop()` returned true before a batch.
    """
    accumulators = [TestAccumulator(world.device, function) for _ in forwards]
    for batch in batches:
        if should_stop():
            return None
        corrupt.add_batches([batch])
        for accumulator, forward in zip(accumulators, forwards, strict=True):
            accumulator.add(forward(batch), batch.labels.to(world.device))
    return [accumulator.total(world) for accumulator in accumulators]
