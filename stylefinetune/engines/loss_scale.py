"""Dynamic loss scaling, which keeps gradients within float16's range, by the rule of torch.amp.GradScaler."""

import math
from typing import Any, Protocol

import torch
from torch.amp import GradScaler

LOSS_SCALE, GOOD_STEPS = "loss_scale", "good_steps"  # as a checkpoint calls them
LEAST = 2.0**-16  # of a scale: where gradients aren't finite even so, a smaller one won't help
# GradScaler begins with 2**16, for inputs near 1. Those here are pixel levels, with gradients as large: of the original
# Caffe's micro run the first three updates would be left out.
FIRST = 2.0**12
_GROWTH, _BACKOFF, _INTERVAL = 2.0, 0.5, 2000  # GradScaler's own


class Scaler(Protocol):
    """What is used of torch.amp.GradScaler, which doesn't wait for the device, and of HostScaler, which is told."""

    def is_enabled(self) -> bool:
        """Says whether it does anything."""
        ...

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:
        """Returns `outputs` times the scale."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns its numbers; empty where it does nothing."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts them back."""
        ...


class HostScaler:
    """The rule of torch.amp.GradScaler for whoever is told by others that a gradient wasn't finite.

    Attributes:
        value: what the loss is multiplied by, and gradients are divided by.
    """

    def __init__(self) -> None:
        self.value = FIRST
        self._good = 0

    def is_enabled(self) -> bool:
        """See Scaler."""
        return True

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:
        """See Scaler."""
        return outputs * self.value

    def update(self, *, overflow: bool) -> None:
        """Takes note of an iteration, and whether a gradient wasn't finite in it and the update was left out."""
        self._good = 0 if overflow else self._good + 1
        if overflow:
            self.value *= _BACKOFF
        elif self._good == _INTERVAL:
            self.value, self._good = self.value * _GROWTH, 0

    def state_dict(self) -> dict[str, Any]:
        """See Scaler."""
        return {"scale": self.value, "_growth_tracker": self._good}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See Scaler."""
        self.value, self._good = state_dict["scale"], state_dict["_growth_tracker"]


def open_scaler(device: torch.device, *, enabled: bool) -> GradScaler:
    """Returns a scaler that begins with FIRST, or one that does nothing."""
    return GradScaler(device.type, init_scale=FIRST, enabled=enabled)


def scalars_of(scaler: Scaler) -> dict[str, float]:
    """Returns what a checkpoint keeps of a scaler; empty where it does nothing."""
    state = scaler.state_dict()
    return {LOSS_SCALE: state["scale"], GOOD_STEPS: state["_growth_tracker"]} if state else {}


def restore(scaler: Scaler, scalars: dict[str, float]) -> None:
    """Puts back what `scalars_of` returned; where that is nothing, the scaler stays as it is."""
    state = scaler.state_dict()
    if state and LOSS_SCALE in scalars:
        mine = {"scale": scalars[LOSS_SCALE], "_growth_tracker": int(scalars[GOOD_STEPS])}
        scaler.load_state_dict({**state, **mine})


def doubt(scaler: Scaler, loss: torch.Tensor) -> torch.Tensor:
    """Returns NaN where the scale has fallen below LEAST, else 0: a scalar as `loss` is, which isn't waited for."""
    return torch.where(scaler.scale(torch.ones_like(loss)) < LEAST, math.nan, 0.0)
