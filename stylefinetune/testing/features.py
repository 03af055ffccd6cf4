"""Collects the features of pictures, what the classifier of a network reads, on any number of ranks."""

import numpy as np
import torch

from shards.format.index import ShardIndex
from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.evaluation.baselines.baselines import Features
from stylefinetune.prediction.layers import LayerOutput
from stylefinetune.testing.split_pass import WholeBatches, read_once

_BATCH = 64  # pictures at a time; that of the tests is over all ranks, and may be too large for one
_EXCHANGED = 2**24  # bytes of features that the ranks exchange at a time


@torch.no_grad()
def collect_features(
    saved: Checkpoint, index: ShardIndex, pictures: PictureDataset, world: World, workers: int | None, what: str
) -> Features:
    """Return the features of all pictures that can be decoded, in their order; collective.

    Rank 0 has the features, bitwise the same for any number of ranks; the others have the labels only. If the
    classifier reads feature maps, a feature is the mean of a map. The arguments are those of `read_once`.

    Raises:
        UserError: a shard can't be read, or a feature is not finite.
    """
    net, transform = saved.build_network(world.device)
    layer = LayerOutput(net, None)
    height, width = saved.progress.input_size
    net(torch.zeros(1, 3, height, width, device=world.device))
    count, dimensions = len(pictures.entries), _pool(layer.take()).shape[1]
    # NumPy's zeros have no memory until they are written, so this rank's memory is that of its own pictures.
    values = torch.from_numpy(np.zeros((count, dimensions), np.float32))
    labels = torch.zeros(count, dtype=torch.int64)
    size = min(_BATCH, pictures.phase.batch_size)
    sampler = WholeBatches(0, count, size, rank=0, world_size=1, reader=world.rank, readers=world.size)
    with read_once(saved, index, pictures, sampler, world, workers, what) as batches:
        for batch in batches:
            net(transform(batch.pictures, batch.crops))
            values[batch.positions] = _pool(layer.take())
            labels[batch.positions] = batch.labels.cpu()
    # Each picture is in a batch of one rank, and 0 in the tensors of the others.
    labels = world.sum(labels).cpu()
    for part in values.split(max(1, _EXCHANGED // (4 * dimensions))):
        total = world.sum(part)
        if not total.isfinite().all():
            raise UserError(f"{saved.path} computes features that aren't finite; choose an earlier checkpoint")
        if world.is_main:
            part.copy_(total)
    read = labels != CORRUPT_LABEL
    if not world.is_main:
        values = values[:0]
    elif not read.all():
        values = values[read]
    return Features(values, labels[read], layer.name)


def _pool(output: torch.Tensor) -> torch.Tensor:
    """Return one row of features for each picture: the mean of each map of float[b, channels, h, w]."""
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output.flatten(1)
