"""Keeps the running statistics of batch normalization equal on all ranks, with model.batch_norm train.

Each rank updates its own from its part of the batch. Those of rank 0 count, as with DistributedDataParallel's
broadcast_buffers: a checkpoint stores them, and every rank tests with them.
"""

import torch
import torch.distributed as dist

from stylefinetune.distributed.world import World


@torch.no_grad()
def share_statistics(statistics: list[torch.Tensor], world: World) -> None:
    """Copy rank 0's statistics, float tensors on the device of this rank, to all ranks; collective."""
    if world.size == 1 or not statistics:
        return
    flat = torch.cat([statistic.flatten() for statistic in statistics])
    dist.broadcast(flat, src=0)
    for statistic, shared in zip(statistics, flat.split([s.numel() for s in statistics]), strict=True):
        statistic.copy_(shared.view_as(statistic))
