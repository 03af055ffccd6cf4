"""Adds the gradients of the ranks after the backward pass, in one all-reduce.

DistributedDataParallel, the alternative, sends them during the backward pass, by functions that the replay of a CUDA
graph does not call.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist


class FlatGradients:
    """The sums of the gradients of `parameters` over the ranks, one after the other in memory.

    Args:
        parameters: of one dtype, on one device, without gaps in memory; of the same shapes and strides on all ranks.
            All of them get gradients.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._parameters = parameters
        self._sizes = [parameter.numel() for parameter in parameters]
        self._memory = torch.empty(sum(self._sizes), dtype=parameters[0].dtype, device=parameters[0].device)

    @torch.no_grad()
    def add(self, *, private: bool = True) -> None:  # noqa: ARG002 -- of SharedGradients; these sums are always private
        """Set the gradient of each parameter to its sum over the ranks, until the next call; collective."""
        torch.cat([_flat(parameter) for parameter in self._parameters], out=self._memory)
        dist.all_reduce(self._memory)
        for parameter, total in zip(self._parameters, self._memory.split(self._sizes), strict=True):
            parameter.grad = total.as_strided(parameter.size(), parameter.stride())


def _flat(parameter: torch.Tensor) -> torch.Tensor:
    """Return the gradient as a vector in the order of memory; autograd gives it the strides of the parameter."""
    assert parameter.grad is not None
    return parameter.grad.as_strided((parameter.numel(),), (1,))
