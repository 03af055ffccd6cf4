"""Computes accuracy, loss and mean average precision over test batches of all ranks."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence

import torch

from stylefinetune.config.train import LossFunction
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch
from stylefinetune.data.mixing.mix import to_targets
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.distributed.heartbeat import LostRank
from stylefinetune.distributed.world import World
from stylefinetune.evaluation.average_precision import MeanAveragePrecision
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
    *,
    with_map: bool = False,
) -> list[TestResult] | None:
    """Evaluate `batches`, slices of this rank, with the logits of each of `forwards` and a loss function; collective.

    `corrupt` collects the pictures that cannot be decoded, which the results do not count. The mean average precision
    is computed `with_map` only, since it needs the predictions for all pictures.

    Returns:
        A result for each of `forwards`, the same on each rank; None if `should_stop()` returned true before a batch.
    """
    accumulators = [TestAccumulator(world.device, function) for _ in forwards]
    precisions = [MeanAveragePrecision(function) for _ in forwards] if with_map else []
    for batch in batches:
        if should_stop():
            return None
        corrupt.add_batches([batch])
        labels = batch.labels.to(world.device)
        pairs = None if batch.pairs is None else batch.pairs.to(world.device)
        logits = [forward(batch) for forward in forwards]
        for accumulator, each in zip(accumulators, logits, strict=True):
            accumulator.add(each, labels, pairs)
        for precision, each in zip(precisions, logits, strict=False):
            is_read = labels != CORRUPT_LABEL
            precision.add(each[is_read], to_targets(labels, each.shape[1], pairs)[is_read] > 0)
    results = [accumulator.total(world) for accumulator in accumulators]
    if with_map:
        pairs_of = zip(results, precisions, strict=True)
        results = [dataclasses.replace(result, map=precision.total(world)) for result, precision in pairs_of]
    return results
