"""Measures the gradient of each layer, and how much an update changes the layer's weights."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

import torch

from stylefinetune.distributed.world import World
from stylefinetune.models.layer_names import split_parameter

_CHUNK = 32768  # numbers that a CPU measures at once: they fit into its cache


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of the numbers of a parameter, in the order of memory, that belongs to a layer."""

    layer: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class _Update:
    """A part whose update is going on."""

    layer: str
    before: torch.Tensor  # copy of the weights
    weights: torch.Tensor  # view of the parameter
    gradient_norm: torch.Tensor


class LayerNorms:
    """The L2 norms of each layer's gradient, update and weights, in the steps that are asked for.

    A layer's parameters are measured together, and those that are not trained are left out. Each rank measures its
    parts, and `values` adds the ranks. Measuring changes no number of the training. On this rank, it takes the memory
    of a copy of the parts.

    Attributes:
        is_measuring: whether the current step is measured.

    Args:
        parts: what this rank measures, by parameter of the optimizer; each number is in a part of one rank.
        layers: the trained layers, the same on each rank.
        world: the ranks.
    """

    def __init__(self, parts: Mapping[torch.Tensor, Iterable[Part]], layers: Iterable[str], world: World) -> None:
        self._world = world
        self._places = {layer: place for place, layer in enumerate(dict.fromkeys(layers))}
        self._parts = {parameter: _cut(some, world) for parameter, some in parts.items()}
        self.is_measuring = False
        self._updates: list[_Update] = []
        self._measured: list[tuple[str, torch.Tensor]] = []  # layer, and the norms of gradient, update and weights
        self._gradient_factor: torch.Tensor | float = 1.0

    @classmethod
    def of_replicas(cls, parameters: Mapping[str, torch.Tensor], world: World) -> Self:
        """Measure parameters of which every rank has a copy, given by name; the ranks share the work."""
        cut = [
            (parameter, part)
            for name, parameter in parameters.items()
            for part in _cut([Part(split_parameter(name)[0], 0, parameter.numel())], world)
        ]
        own: dict[torch.Tensor, list[Part]] = {}
        for parameter, part in cut[world.rank :: world.size]:
            own.setdefault(parameter, []).append(part)
        return cls(own, (split_parameter(name)[0] for name in parameters), world)

    def start(self, *, measure: bool) -> None:
        """Forget the last step; measure the next one, or not."""
        self.is_measuring = measure
        self._measured.clear()
        self._gradient_factor = 1.0

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradients of the optimizer's parameters, and copy their weights.

        An engine calls this before an update. It has no effect during an update, when a hook of the optimizer calls it.
        """
        if not self.is_measuring or self._updates:
            return
        for parameter in _parameters(optimizer):
            weights, gradient = _flatten(parameter), parameter.grad
            gradients = None if gradient is None else _flatten(gradient)  # None while the parameter is frozen
            for part in self._parts.get(parameter, ()):
                own = weights[part.start : part.stop]
                norm = own.new_zeros(()) if gradients is None else _norm(gradients[part.start : part.stop])
                self._updates.append(_Update(part.layer, own.clone(), own, norm))

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure the update that `before_step` has begun."""
        for update in self._updates:
            norms = (update.gradient_norm, torch.dist(update.weights, update.before), _norm(update.before))
            self._measured.append((update.layer, torch.stack(norms)))
        self._updates.clear()

    def scale_gradients(self, factor: torch.Tensor | float) -> None:
        """Multiply the gradients of this step by a factor, since they were measured clipped or with a loss scale."""
        self._gradient_factor = factor

    def values(self) -> dict[str, float]:
        """Return the norms of the last step; empty if it was not measured, or did no update. Collective; waits.

        grad_norm is that of all gradients, grad_norm/LAYER that of a layer, both before clipping. update_ratio/LAYER is
        the norm of the layer's update divided by that of its weights.
        """
        if not self.is_measuring:
            return {}
        squares = torch.zeros(len(self._places), 3, dtype=torch.float64, device=self._world.device)
        if self._measured:
            places = torch.tensor([self._places[layer] for layer, _ in self._measured], device=squares.device)
            norms = torch.stack([norms for _, norms in self._measured]).to(squares)
            norms[:, 0] *= self._gradient_factor
            squares.index_add_(0, places, norms.square())
        squares = self._world.sum(squares).cpu()
        total = float(squares[:, 0].sum().sqrt())
        if not (math.isfinite(total) and squares[:, 2].any()):  # nothing was measured on any rank
            return {}
        gradients, updates, weights = squares.sqrt().unbind(dim=1)
        by_layer = zip(self._places, gradients.tolist(), updates.tolist(), weights.tolist(), strict=True)
        values = {"grad_norm": total}
        for layer, gradient, update, weight in by_layer:
            values[f"grad_norm/{layer}"] = gradient
            if weight > 0:
                values[f"update_ratio/{layer}"] = update / weight
        return values


def _cut(parts: Iterable[Part], world: World) -> list[Part]:
    """Cut parts into chunks on a CPU; a GPU measures a whole part at once."""
    if world.device.type != "cpu":
        return list(parts)
    return [
        Part(part.layer, start, min(start + _CHUNK, part.stop))
        for part in parts
        for start in range(part.start, part.stop, _CHUNK)
    ]


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _flatten(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of the numbers in the order of memory, for a tensor without gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _norm(numbers: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(numbers)
