"""Dynamic loss scaling for float16, by the rule of torch.amp.GradScaler."""

import math
from typing import Any

import torch
from torch.amp import GradScaler

LOSS_SCALE, GOOD_STEPS = "loss_scale", "good_steps"  # names in a checkpoint
MIN_SCALE = 2.0**-16  # below it, gradients that are not finite have another cause than the scale
# GradScaler starts with 2**16, for inputs near 1. Pixel values are larger, and so are the gradients: with 2**16 the
# first three updates of Caffe's micro run would be skipped.
INITIAL_SCALE = 2.0**12
_GROWTH, _BACKOFF, _INTERVAL = 2.0, 0.5, 2000  # GradScaler's defaults


class HostScaler:
    """The rule of torch.amp.GradScaler for an engine that detects overflows itself.

    Attributes:
        value: factor of the loss; gradients are divided by it.
    """

    def __init__(self) -> None:
        self.value = INITIAL_SCALE
        self._good = 0

    def is_enabled(self) -> bool:
        """Return whether the loss is scaled."""
        return True

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return `outputs` times the scale."""
        return outputs * self.value

    def update(self, *, overflow: bool) -> None:
        """Adjust the scale after an iteration; `overflow`: a gradient was not finite and the update was skipped."""
        self._good = 0 if overflow else self._good + 1
        if overflow:
            self.value *= _BACKOFF
        elif self._good == _INTERVAL:
            self.value, self._good = self.value * _GROWTH, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        return {"scale": self.value, "_growth_tracker": self._good}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state."""
        self.value, self._good = state_dict["scale"], state_dict["_growth_tracker"]


Scaler = GradScaler | HostScaler


def build_scaler(device: torch.device, *, enabled: bool) -> GradScaler:
    """Return a scaler that starts with INITIAL_SCALE, or a disabled one."""
    return GradScaler(device.type, init_scale=INITIAL_SCALE, enabled=enabled)


def scaler_scalars(scaler: Scaler) -> dict[str, float]:
    """Return the scalars of a checkpoint; empty if scaling is disabled."""
    state = scaler.state_dict()
    return {LOSS_SCALE: state["scale"], GOOD_STEPS: state["_growth_tracker"]} if state else {}


def restore_scaler(scaler: Scaler, scalars: dict[str, float]) -> None:
    """Load what `scaler_scalars` returned; if that is empty, the scaler does not change."""
    state = scaler.state_dict()
    if state and LOSS_SCALE in scalars:
        loaded = {"scale": scalars[LOSS_SCALE], "_growth_tracker": int(scalars[GOOD_STEPS])}
        scaler.load_state_dict({**state, **loaded})


def nan_below_min_scale(scaler: Scaler, loss: torch.Tensor) -> torch.Tensor:
    """Return NaN if the scale is below MIN_SCALE, else 0: a scalar on the device of `loss`; does not wait for it."""
    return torch.where(scaler.scale(torch.ones_like(loss)) < MIN_SCALE, math.nan, 0.0)
