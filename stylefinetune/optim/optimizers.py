"""Builds the optimizer that optim.optimizer selects: Caffe's SGD, or one of torch.optim with multipliers per layer.

Each optimizer has its whole state from the start. The state of a parameter has one tensor per slot: of the parameter's
shape, such as the momentum, or a scalar, the number of steps.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from stylefinetune.config.optim import CAFFE_SGD, OptimConfig
from stylefinetune.optim.caffe_sgd import MOMENTUM, CaffeSGD
from stylefinetune.optim.gradients import FUSED, strided_like

STEP = "step"  # the slot of the number of steps
_RMSPROP_ALPHA = 0.9  # of the recipes of MobileNet and EfficientNet; torch.optim has 0.99


class _PerLayer(torch.optim.Optimizer):
    """Adds to an optimizer of torch.optim the multipliers of each parameter group, `lr_mult` and `decay_mult`.

    Groups that are `frozen` are not updated, and their state does not change. The caller sets each group's `lr` before
    a step, as with CaffeSGD.
    """

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] -- no closures
        """Update every parameter from its gradient."""
        assert closure is None
        groups = self.param_groups
        self.param_groups = [
            group | {"lr": group["lr"] * group["lr_mult"], "weight_decay": group["weight_decay"] * group["decay_mult"]}
            for group in groups
            if not group.get("frozen")
        ]
        for parameter in _parameters(self.param_groups):
            if parameter.grad is not None:
                parameter.grad = strided_like(parameter, parameter.grad)
        try:
            super().step()
        finally:
            self.param_groups = groups


class _SGD(_PerLayer, torch.optim.SGD):
    pass


class _AdamW(_PerLayer, torch.optim.AdamW):
    pass


class _RMSprop(_PerLayer, torch.optim.RMSprop):
    pass


def build_optimizer(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer of parameter groups with `lr_mult` and `decay_mult`; its state is zero.

    It uses the kernel that does a whole update in one pass where PyTorch has one for the device.
    """
    if optim.optimizer == CAFFE_SGD:
        return CaffeSGD(groups, optim)
    common: dict[str, Any] = {"lr": optim.base_lr, "weight_decay": optim.weight_decay}
    fused = all(parameter.device.type in FUSED for parameter in _parameters(groups))
    kernel = {"fused": fused, "foreach": not fused}
    match optim.optimizer:
        case "sgd":
            optimizer = _SGD(groups, momentum=optim.momentum, nesterov=optim.nesterov, **common, **kernel)
        case "adamw":
            optimizer = _AdamW(groups, betas=optim.betas, eps=optim.eps, **common, **kernel)
        case "rmsprop":
            optimizer = _RMSprop(
                groups, alpha=_RMSPROP_ALPHA, momentum=optim.momentum, eps=optim.eps, foreach=True, **common
            )
    for parameter in _parameters(groups):
        optimizer.state[parameter] = new_state(parameter, slots_of(optim))
    return optimizer


def slots_of(optim: OptimConfig) -> tuple[str, ...]:
    """Return the names of the slots of the optimizer's state."""
    momentum = (MOMENTUM,) if optim.momentum else ()
    match optim.optimizer:
        case "caffe_sgd":
            return (MOMENTUM,)
        case "sgd":
            return momentum
        case "adamw":
            return (STEP, "exp_avg", "exp_avg_sq")
        case "rmsprop":
            return (STEP, "square_avg", *momentum)


def new_state(parameter: torch.Tensor, slots: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the state of a parameter before the first step, by slot."""
    return {
        slot: torch.zeros((), device=parameter.device) if slot == STEP else torch.zeros_like(parameter)
        for slot in slots
    }


@torch.no_grad()
def load_slot(targets: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    """Copy what is saved of a slot. The rest, such as that of a layer which was frozen, becomes zero."""
    for name, target in targets.items():
        target.copy_(saved[name]) if name in saved else target.zero_()


def _parameters(groups: list[dict[str, Any]]) -> Iterator[torch.Tensor]:
    return (parameter for group in groups for parameter in group["params"])
