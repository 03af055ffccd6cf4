"""Computes accuracy and loss over test batches, summed over the ranks."""

from collections.abc import Callable, Iterable

import torch

from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch
from stylefinetune.distributed.world import World
from stylefinetune.tracking.metrics import TestAccumulator, TestResult


def evaluate_batches(
    forward: Callable[[Batch], torch.Tensor],
    batches: Iterable[Batch],
    corrupt: CorruptPictures,
    world: World,
    should_stop: Callable[[], bool] = lambda: False,
) -> TestResult | None:
    """Evaluate `batches`, the slices of this rank, with the logits of `forward`; collective.

    `corrupt` collects the pictures that cannot be decoded, which the result does not count.

    Returns:
        The same result on each rank; None if `should_stop()` returned true before a batch.
    """
    accumulator = TestAccumulator(world.device)
    for batch in batches:
        if should_stop():
            return None
        corrupt.add_batches([batch])
        accumulator.add(forward(batch), batch.labels.to(world.device))
    return accumulator.total(world)
