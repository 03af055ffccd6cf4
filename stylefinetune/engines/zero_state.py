"""Gathers the weights and optimizer states that DeepSpeed partitions among the ranks, and loads them, for each stage.

DeepSpeed's own checkpoints are tied to one stage and one number of ranks. Its functions for whole tensors, such as
deepspeed.utils.safe_get_full_optimizer_state, work only after the first step, omit frozen parameters, and at stage 3
can't set a tensor whose size isn't a multiple of the number of ranks. So this module reads and writes the partitions in
DeepSpeed's own layout.

Each class takes the optimizer that deepspeed.initialize returns for an fp32 net, the parameters by name, and the names
of the optimizer's slots. `gather` returns all parameters, and the slots of the trained ones. `load` sets them; what is
missing of a slot becomes zero. Both are collective.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from stylefinetune.distributed.world import World
from stylefinetune.engines.norms.layer_norms import LayerNorms, Part
from stylefinetune.errors import UserError
from stylefinetune.models.layer_names import split_parameter
from stylefinetune.optim.optimizers import STEP, load_slot, new_state

Tensors = dict[str, torch.Tensor]
Slots = dict[str, Tensors]  # slot -> name of the parameter -> tensor
Parameters = dict[str, nn.Parameter]


class _Stage0:
    """Every rank has all weights and states."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Parameters, slots: tuple[str, ...]) -> None:
        self._parameters = parameters
        trained = {name: value for name, value in parameters.items() if value.requires_grad}
        for value in trained.values():
            optimizer.state[value] = new_state(value, slots)
        self._slots = {slot: {name: optimizer.state[p][slot] for name, p in trained.items()} for slot in slots}

    def gather(self) -> tuple[Tensors, Slots]:
        return _detach(self._parameters), self._slots

    def load(self, parameters: Tensors, slots: Slots) -> None:
        _copy(self._parameters, parameters)
        for slot, tensors in self._slots.items():
            load_slot(tensors, slots.get(slot, {}))


class _Partitioned:
    """Stages 1 to 3: each rank has one partition, a flat tensor, of each slot of each parameter group."""

    def __init__(
        self,
        optimizer: Any,  # noqa: ANN401
        parameters: Parameters,
        weights: list[torch.Tensor],
        slots: tuple[str, ...],
    ) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._names = {value: name for name, value in parameters.items()}
        self._weights = weights
        self._states = [new_state(partition, slots) for partition in weights]
        for partition, state in zip(weights, self._states, strict=True):
            optimizer.optimizer.state[partition] = state

    def _layout(self, group: int) -> Iterator[tuple[str, Any, Any]]:
        """Yield the name and the parameter of each tensor of a group, and its place."""
        raise NotImplementedError

    def parts(self) -> dict[torch.Tensor, list[Part]]:
        """Return which numbers of this rank's partitions of the weights belong to which layer."""
        return {partition: list(self._parts(group)) for group, partition in enumerate(self._weights)}

    def _parts(self, group: int) -> Iterator[Part]:
        """Yield the parts of this rank's partition of a group, without padding."""
        raise NotImplementedError

    def _join(self, group: int, partition: torch.Tensor) -> Tensors:
        """Return the whole tensors whose parts are the partitions of all ranks."""
        raise NotImplementedError

    def _split(self, group: int, partition: torch.Tensor, tensors: Tensors) -> None:
        """Set this rank's partition to its part of whole tensors, and to zero where one is missing."""
        raise NotImplementedError

    def _gather_slots(self) -> Slots:
        gathered: Slots = {}
        for group, state in enumerate(self._states):
            for slot, partition in state.items():
                if slot == STEP:
                    joined = {name: partition.clone() for name, _, _ in self._layout(group)}
                else:
                    joined = self._join(group, partition)
                gathered.setdefault(slot, {}).update(joined)
        return gathered

    def _load_slots(self, slots: Slots) -> None:
        for group, state in enumerate(self._states):
            for slot, partition in state.items():
                saved = slots.get(slot, {})
                if slot == STEP:
                    partition.fill_(_common_step([name for name, _, _ in self._layout(group)], saved))
                else:
                    self._split(group, partition, saved)


class _Stage1And2(_Partitioned):
    """A group is one flat tensor, cut into equal partitions; every rank also has all weights."""

    def __init__(self, optimizer: Any, parameters: Parameters, slots: tuple[str, ...]) -> None:  # noqa: ANN401
        super().__init__(optimizer, parameters, optimizer.single_partition_of_fp32_groups, slots)

    def _layout(self, group: int) -> Iterator[tuple[str, nn.Parameter, int]]:
        """Yield the name, the parameter and the offset of each tensor of a group."""
        tensors = self._optimizer.round_robin_bit16_groups[group]
        for tensor, offset in zip(tensors, self._optimizer.round_robin_bit16_offsets[group], strict=True):
            yield self._names[tensor], tensor, offset

    def _parts(self, group: int) -> Iterator[Part]:
        size = self._weights[group].numel()
        for name, tensor, offset in self._layout(group):
            start = offset - dist.get_rank() * size
            first, last = max(start, 0), min(start + tensor.numel(), size)
            if first < last:
                yield Part(split_parameter(name)[0], first, last)

    def _join(self, group: int, partition: torch.Tensor) -> Tensors:
        flat = _gather(partition).flatten()
        return {
            name: flat.narrow(0, offset, tensor.numel()).view(tensor.shape)
            for name, tensor, offset in self._layout(group)
        }

    def _split(self, group: int, partition: torch.Tensor, tensors: Tensors) -> None:
        flat = partition.new_zeros(dist.get_world_size(), partition.numel())
        for name, tensor, offset in self._layout(group):
            _copy_or_zero(flat.view(-1).narrow(0, offset, tensor.numel()), tensors.get(name))
        partition.copy_(flat[dist.get_rank()])

    def gather(self) -> tuple[Tensors, Slots]:
        return _detach(self._parameters), self._gather_slots()

    def load(self, parameters: Tensors, slots: Slots) -> None:
        _copy(self._parameters, parameters)
        self._optimizer.refresh_fp32_params()
        self._load_slots(slots)


class _Stage3(_Partitioned):
    """Each tensor, also of the weights, is cut into one part per rank, padded to equal size."""

    def __init__(self, optimizer: Any, parameters: Parameters, slots: tuple[str, ...]) -> None:  # noqa: ANN401
        super().__init__(optimizer, parameters, optimizer.fp32_partitioned_groups_flat, slots)

    def _layout(self, group: int) -> Iterator[tuple[str, Any, slice]]:
        """Yield the name and the parameter of each tensor of a group, and the slice of a partition with its part."""
        start = 0
        for tensor in self._optimizer.fp16_groups[group]:
            end = start + tensor.partition_numel()
            yield self._names[tensor], tensor, slice(start, end)
            start = end

    def _parts(self, group: int) -> Iterator[Part]:
        for name, tensor, part in self._layout(group):
            size = part.stop - part.start
            count = min(tensor.ds_numel - dist.get_rank() * size, size)  # the last partitions are padded
            if count > 0:
                yield Part(split_parameter(name)[0], part.start, part.start + count)

    def _join(self, group: int, partition: torch.Tensor) -> Tensors:
        rows = _gather(partition)
        return {
            name: rows[:, part].flatten()[: tensor.ds_numel].view(tensor.ds_shape)
            for name, tensor, part in self._layout(group)
        }

    def _split(self, group: int, partition: torch.Tensor, tensors: Tensors) -> None:
        for name, tensor, part in self._layout(group):
            rows = partition.new_zeros(dist.get_world_size(), part.stop - part.start)
            _copy_or_zero(rows.view(-1)[: tensor.ds_numel], tensors.get(name))
            partition[part] = rows[dist.get_rank()]

    def gather(self) -> tuple[Tensors, Slots]:
        tensors: list[Any] = list(self._parameters.values())
        tensors[0].all_gather(param_list=tensors)
        gathered = {name: value.clone() for name, value in _detach(self._parameters).items()}
        tensors[0].partition(param_list=tensors, has_been_updated=False)
        return gathered, self._gather_slots()

    def load(self, parameters: Tensors, slots: Slots) -> None:
        tensors: list[Any] = list(self._parameters.values())
        tensors[0].all_gather(param_list=tensors)
        _copy(self._parameters, parameters)
        tensors[0].partition(param_list=tensors, has_been_updated=True)
        self._optimizer.refresh_fp32_params()
        self._load_slots(slots)


ZeroState = _Stage0 | _Stage1And2 | _Stage3


def build_zero_state(optimizer: Any, parameters: Parameters, slots: tuple[str, ...], stage: int) -> ZeroState:  # noqa: ANN401 -- DeepSpeed has no types
    """Return the state of a stage, 0 to 3, with the optimizer's slots at zero."""
    if stage == 0:
        return _Stage0(optimizer, parameters, slots)
    return (_Stage1And2 if stage < 3 else _Stage3)(optimizer, parameters, slots)


def build_norms(state: ZeroState, trained: Parameters, world: World) -> LayerNorms:
    """Return what measures the layers of the `trained` parameters."""
    if isinstance(state, _Stage0):
        return LayerNorms.of_replicas(trained, world)
    return LayerNorms(state.parts(), (split_parameter(name)[0] for name in trained), world)


def _common_step(names: list[str], saved: Tensors) -> float:
    """Return the number of steps that all tensors of a partition have."""
    steps = {name: saved[name].item() if name in saved else 0.0 for name in names}
    first, *others = steps
    for name in others:
        if steps[name] != steps[first]:
            raise UserError(
                f"{name} is trained for {steps[name]:.0f} iterations and {first} for {steps[first]:.0f}, since one was "
                "frozen, but DeepSpeed's stages 1 to 3 count the iterations of both together; use deepspeed.zero_stage "
                "0, or --engine torch"
            )
    return steps[first]


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
