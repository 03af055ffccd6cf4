"""Adds the gradients of ranks on one machine in memory that they share.

gloo, the alternative on a CPU, copies them through the kernel with threads that need the cores which compute.
"""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
import torch.distributed as dist

from stylefinetune.distributed.shared_memory import share_memory
from stylefinetune.distributed.world import World


class SharedGradients:
    """The sums of the gradients of `parameters` over the ranks.

    The elements of each gradient are divided into one part for each rank, which adds it. So every sum is computed once,
    in a fixed order, and all ranks read the same bits.

    Args:
        parameters: of one dtype, on the CPU, without gaps in memory; of the same shapes and strides on all ranks.
        memory: of their dtype and [world.size - 1, number of their elements], shared by the ranks.
        world: the ranks.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], memory: torch.Tensor, world: World) -> None:
        self._parameters = parameters
        self._rank, self._size = world.rank, world.size
        # Of the part that rank r adds, row i holds the gradient of rank r + 1 + i, and row 0 finally the sum.
        self._rows = [row.split([parameter.numel() for parameter in parameters]) for row in memory]
        self._sums = [
            sums.as_strided(parameter.size(), parameter.stride())
            for sums, parameter in zip(self._rows[0], parameters, strict=True)
        ]

    @classmethod
    def open(cls, parameters: Sequence[torch.Tensor], world: World) -> Self | None:
        """Return the sums of parameters in new memory, or None on every rank if they can't share any; collective."""
        memory = share_memory(world, (world.size - 1) * sum(parameter.nbytes for parameter in parameters))
        if memory is None:
            return None
        return cls(parameters, torch.frombuffer(memory, dtype=parameters[0].dtype).view(world.size - 1, -1), world)

    @torch.no_grad()
    def add(self, *, private: bool) -> None:
        """Set the gradient of each parameter that has one to its sum over the ranks; collective.

        The other ranks read the same memory, until the next call. If the caller changes gradients in place, it needs
        `private` copies of them.
        """
        dist.barrier()  # all ranks have used the sums of the previous call
        for gradient, rows in self._flat_gradients():
            for distance, row in enumerate(rows, 1):
                adding = (self._rank - distance) % self._size
                row.tensor_split(self._size)[adding].copy_(gradient.tensor_split(self._size)[adding])
        dist.barrier()
        for gradient, rows in self._flat_gradients():
            first, *others = (row.tensor_split(self._size)[self._rank] for row in rows)
            torch.add(gradient.tensor_split(self._size)[self._rank], first, out=first)
            for other in others:
                first.add_(other)
        dist.barrier()
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            if parameter.grad is not None:
                parameter.grad = total.clone() if private else total

    def _flat_gradients(self) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
        """Yield each gradient and its rows of memory, as vectors in the order of memory."""
        for parameter, *rows in zip(self._parameters, *self._rows, strict=True):
            if parameter.grad is not None:  # autograd gives it the strides of the parameter
                yield parameter.grad.as_strided((parameter.numel(),), (1,)), tuple(rows)
