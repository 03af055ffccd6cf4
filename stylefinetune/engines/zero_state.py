"""Gathers the weights and momenta that DeepSpeed partitions among the ranks, and loads them, for each ZeRO stage.

DeepSpeed's own checkpoints are tied to one stage and one number of ranks. Its functions for whole tensors, such as
deepspeed.utils.safe_get_full_optimizer_state, work only after the first step, omit frozen parameters, and at stage 3
can't set a tensor whose size isn't a multiple of the number of ranks. So this module reads and writes the partitions in
DeepSpeed's own layout.

Each class takes the optimizer that deepspeed.initialize returns for an fp32 net, and the parameters by name. `gather`
returns all parameters, and the momenta of the trained ones. `load` sets them; a missing momentum becomes zero. Both are
collective.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from stylefinetune.optim.caffe_sgd import MOMENTUM

Tensors = dict[str, torch.Tensor]
Parameters = dict[str, nn.Parameter]


class _Stage0:
    """Every rank has all weights and momenta."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Parameters) -> None:
        self._parameters = parameters
        self._momenta = {name: torch.zeros_like(value) for name, value in parameters.items() if value.requires_grad}
        for name, momentum in self._momenta.items():
            optimizer.state[parameters[name]][MOMENTUM] = momentum

    def gather(self) -> tuple[Tensors, Tensors]:
        return _detach(self._parameters), self._momenta

    def load(self, parameters: Tensors, momenta: Tensors) -> None:
        _copy(self._parameters, parameters)
        for name, momentum in self._momenta.items():
            _copy_or_zero(momentum, momenta.get(name))


class _Partitioned:
    """Stages 1 to 3: each rank has one partition, a flat tensor, of each parameter group's momenta."""

    def __init__(self, optimizer: Any, parameters: Parameters, weights: list[torch.Tensor]) -> None:  # noqa: ANN401
        self._optimizer = optimizer
        self._parameters = parameters
        self._names = {value: name for name, value in parameters.items()}
        self._momenta = [torch.zeros_like(partition) for partition in weights]
        for partition, momentum in zip(weights, self._momenta, strict=True):
            optimizer.optimizer.state[partition][MOMENTUM] = momentum


class _Stage1And2(_Partitioned):
    """A group is one flat tensor, cut into equal partitions; every rank also has all weights."""

    def __init__(self, optimizer: Any, parameters: Parameters) -> None:  # noqa: ANN401
        super().__init__(optimizer, parameters, optimizer.single_partition_of_fp32_groups)

    def _layout(self, group: int) -> Iterator[tuple[str, nn.Parameter, int]]:
        """Yield the name, the parameter and the offset of each tensor of a group."""
        tensors = self._optimizer.round_robin_bit16_groups[group]
        for tensor, offset in zip(tensors, self._optimizer.round_robin_bit16_offsets[group], strict=True):
            yield self._names[tensor], tensor, offset

    def gather(self) -> tuple[Tensors, Tensors]:
        momenta: Tensors = {}
        for group, partition in enumerate(self._momenta):
            flat = _gather(partition).flatten()
            for name, tensor, offset in self._layout(group):
                momenta[name] = flat.narrow(0, offset, tensor.numel()).view(tensor.shape)
        return _detach(self._parameters), momenta

    def load(self, parameters: Tensors, momenta: Tensors) -> None:
        _copy(self._parameters, parameters)
        self._optimizer.refresh_fp32_params()
        for group, partition in enumerate(self._momenta):
            flat = partition.new_zeros(dist.get_world_size(), partition.numel())
            for name, tensor, offset in self._layout(group):
                _copy_or_zero(flat.view(-1).narrow(0, offset, tensor.numel()), momenta.get(name))
            partition.copy_(flat[dist.get_rank()])


class _Stage3(_Partitioned):
    """Each tensor, also of the weights, is cut into one part per rank, padded to equal size."""

    def __init__(self, optimizer: Any, parameters: Parameters) -> None:  # noqa: ANN401
        super().__init__(optimizer, parameters, optimizer.fp32_partitioned_groups_flat)

    def _layout(self, group: int) -> Iterator[tuple[str, Any, slice]]:
        """Yield the name and the parameter of each tensor of a group, and the slice of a partition with its part."""
        start = 0
        for tensor in self._optimizer.fp16_groups[group]:
            end = start + tensor.partition_numel()
            yield self._names[tensor], tensor, slice(start, end)
            start = end

    def gather(self) -> tuple[Tensors, Tensors]:
        momenta: Tensors = {}
        for group, partition in enumerate(self._momenta):
            rows = _gather(partition)
            for name, tensor, part in self._layout(group):
                momenta[name] = rows[:, part].flatten()[: tensor.ds_numel].view(tensor.ds_shape)
        tensors: list[Any] = list(self._parameters.values())
        tensors[0].all_gather(param_list=tensors)
        gathered = {name: value.clone() for name, value in _detach(self._parameters).items()}
        tensors[0].partition(param_list=tensors, has_been_updated=False)
        return gathered, momenta

    def load(self, parameters: Tensors, momenta: Tensors) -> None:
        tensors: list[Any] = list(self._parameters.values())
        tensors[0].all_gather(param_list=tensors)
        _copy(self._parameters, parameters)
        tensors[0].partition(param_list=tensors, has_been_updated=True)
        self._optimizer.refresh_fp32_params()
        for group, partition in enumerate(self._momenta):
            for name, tensor, part in self._layout(group):
                rows = partition.new_zeros(dist.get_world_size(), part.stop - part.start)
                _copy_or_zero(rows.view(-1)[: tensor.ds_numel], momenta.get(name))
                partition[part] = rows[dist.get_rank()]


ZeroState = _Stage0 | _Stage1And2 | _Stage3


def build_zero_state(optimizer: Any, parameters: Parameters, stage: int) -> ZeroState:  # noqa: ANN401 -- DeepSpeed has no types
    """Return the state of a stage, 0 to 3, with zero momenta."""
    if stage == 0:
        return _Stage0(optimizer, parameters)
    return _Stage1And2(optimizer, parameters) if stage < 3 else _Stage3(optimizer, parameters)


def _gather(partition: torch.Tensor) -> torch.Tensor:
    """Return the partitions of all ranks, [ranks, numel]."""
    rows = partition.new_empty(dist.get_world_size(), partition.numel())
    dist.all_gather(list(rows), partition)
    return rows


def _detach(parameters: Parameters) -> Tensors:
    return {name: value.detach() for name, value in parameters.items()}


def _copy(targets: Parameters, sources: Tensors) -> None:
    for name, target in targets.items():
        target.copy_(sources[name])


def _copy_or_zero(target: torch.Tensor, source: torch.Tensor | None) -> None:
    if source is None:
        target.zero_()
    else:
        target.copy_(source.reshape(target.shape))
