"""Computes accuracy and loss over test batches, summed over the ranks."""

from collections.abc import Callable, Iterable

import torch

from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch
from stylefinetune.distributed.world import World
from stylefinetune.tracking.metrics import TestAccumulator, TestResult


def test_model(
    forward: Callable[[Batch], torch.Tensor],
    batches: Iterable[Batch],
    corrupt: CorruptPictures,
    world: World,
    stop: Callable[[], bool],
) -> TestResult | None:
    """Tests every picture of `batches` once over all ranks, but for corrupt ones; collective, the same result on each.

    Args:
        forward: gives a batch's logits.
        batches: this rank's slices.
        corrupt: notes what can't be decoded.
        world: the ranks.
        stop: asked before each batch whether to leave.

    Returns:
        None where it was left.
    """
    total = TestAccumulator(world.device)
    for batch in batches:
        if stop():
            return None
        corrupt.add_all([batch])
        total.add(forward(batch), batch.labels.to(world.device))
    return total.total(world)
