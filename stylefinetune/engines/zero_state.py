"""Gathers what DeepSpeed divides among the ranks, and divides what is put back, at each of its stages.

Its own checkpoints hold for one stage on one number of ranks. Its interface to the whole tensors
(deepspeed.utils.safe_get_full_optimizer_state and the like) is there after the first step only, leaves out frozen
parameters, and at stage 3 can't put back a tensor whose size isn't a multiple of the ranks. So the divided tensors are
read and written here as DeepSpeed lays them out.

Each class holds an optimizer as deepspeed.initialize returns it, for a net in fp32, and the parameters by name.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from stylefinetune.optim.caffe_sgd import MOMENTUM

Tensors = dict[str, torch.Tensor]


class ZeroState(Protocol):
    """Weights and momenta of a stage; both methods are collective."""

    def gather(self) -> tuple[Tensors, Tensors]:
        """Returns all parameters, and the trained ones' momenta."""
        ...

    def put(self, parameters: Tensors, momenta: Tensors) -> None:
        """Puts back; a trained parameter without momentum starts at rest."""
        ...


def open_state(optimizer: Any, parameters: dict[str, nn.Parameter], stage: int) -> ZeroState:  # noqa: ANN401 -- DeepSpeed has no types
    """Returns the state of a stage, 0 to 3, with momenta at rest."""
    if stage == 0:
        return _Whole(optimizer, parameters)
    return _Flat(optimizer, parameters) if stage < 3 else _Divided(optimizer, parameters)


class _Whole:
    """Stage 0: every rank has everything."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._momenta = {name: torch.zeros_like(value) for name, value in parameters.items() if value.requires_grad}
        for name, momentum in self._momenta.items():
            optimizer.state[parameters[name]][MOMENTUM] = momentum

    def gather(self) -> tuple[Tensors, Tensors]:
        return {name: value.detach() for name, value in self._parameters.items()}, self._momenta

    def put(self, parameters: Tensors, momenta: Tensors) -> None:
        for name, value in self._parameters.items():
            value.copy_(parameters[name])
        for name, momentum in self._momenta.items():
            _copy_or_rest(momentum, momenta.get(name))


class _Flat:
    """Stages 1 and 2: each group is one flat tensor, cut into a part for each rank; the weights are whole, too."""

    def __init__(self, optimizer: Any, parameters: dict[str, nn.Parameter]) -> None:  # noqa: ANN401
        self._optimizer = optimizer
        self._parameters = parameters
        self._names = {value: name for name, value in parameters.items()}
        self._parts = [torch.zeros_like(part) for part in optimizer.single_partition_of_fp32_groups]
        for part, momentum in zip(optimizer.single_partition_of_fp32_groups, self._parts, strict=True):
            optimizer.optimizer.state[part][MOMENTUM] = momentum.detach()

    def _places(self, group: int) -> Iterator[tuple[str, nn.Parameter, int]]:
        """Yields the name, parameter and offset of each of a group's tensors."""
        tensors = self._optimizer.round_robin_bit16_groups[group]
        for tensor, offset in zip(tensors, self._optimizer.round_robin_bit16_offsets[group], strict=True):
            yield self._names[tensor], tensor, offset

    def gather(self) -> tuple[Tensors, Tensors]:
        momenta: Tensors = {}
        for group, part in enumerate(self._parts):
            flat = _gather(part).flatten()
            for name, tensor, offset in self._places(group):
                momenta[name] = flat.narrow(0, offset, tensor.numel()).view(tensor.shape)
        return {name: value.detach() for name, value in self._parameters.items()}, momenta

    def put(self, parameters: Tensors, momenta: Tensors) -> None:
        for name, value in self._parameters.items():
            value.copy_(parameters[name])
        self._optimizer.refresh_fp32_params()
        for group, part in enumerate(self._parts):
            flat = part.new_zeros(dist.get_world_size(), part.numel())
            for name, tensor, offset in self._places(group):
                _copy_or_rest(flat.view(-1).narrow(0, offset, tensor.numel()), momenta.get(name))
            part.copy_(flat[dist.get_rank()])


class _Divided:
    """Stage 3: each tensor is cut into a part for each rank, padded to equal size."""

    def __init__(self, optimizer: Any, parameters: dict[str, nn.Parameter]) -> None:  # noqa: ANN401
        self._optimizer = optimizer
        self._parameters = parameters
        self._names = {value: name for name, value in parameters.items()}
        self._parts = [torch.zeros_like(part) for part in optimizer.fp32_partitioned_groups_flat]
        for part, momentum in zip(optimizer.fp32_partitioned_groups_flat, self._parts, strict=True):
            optimizer.optimizer.state[part][MOMENTUM] = momentum

    def _places(self, group: int) -> Iterator[tuple[str, Any, slice]]:
        """Yields the name and parameter of each of a group's tensors, and where every rank's part of it lies."""
        start = 0
        for tensor in self._optimizer.fp16_groups[group]:
            end = start + tensor.partition_numel()
            yield self._names[tensor], tensor, slice(start, end)
            start = end

    def gather(self) -> tuple[Tensors, Tensors]:
        momenta: Tensors = {}
        for group, part in enumerate(self._parts):
            rows = _gather(part)
            for name, tensor, place in self._places(group):
                momenta[name] = rows[:, place].flatten()[: tensor.ds_numel].view(tensor.ds_shape)
        tensors: list[Any] = list(self._parameters.values())
        tensors[0].all_gather(param_list=tensors)
        gathered = {name: value.detach().clone() for name, value in self._parameters.items()}
        tensors[0].partition(param_list=tensors, has_been_updated=False)
        return gathered, momenta

    def put(self, parameters: Tensors, momenta: Tensors) -> None:
        tensors: list[Any] = list(self._parameters.values())
        tensors[0].all_gather(param_list=tensors)
        for name, value in self._parameters.items():
            value.copy_(parameters[name])
        tensors[0].partition(param_list=tensors, has_been_updated=True)
        self._optimizer.refresh_fp32_params()
        for group, part in enumerate(self._parts):
            for name, tensor, place in self._places(group):
                rows = part.new_zeros(dist.get_world_size(), place.stop - place.start)
                _copy_or_rest(rows.view(-1)[: tensor.ds_numel], momenta.get(name))
                part[place] = rows[dist.get_rank()]


def _gather(part: torch.Tensor) -> torch.Tensor:
    """Returns every rank's part, [ranks, numel]."""
    rows = part.new_empty(dist.get_world_size(), part.numel())
    dist.all_gather(list(rows), part)
    return rows


def _copy_or_rest(target: torch.Tensor, source: torch.Tensor | None) -> None:
    if source is None:
        target.zero_()
    else:
        target.copy_(source.reshape(target.shape))
