"""Caffe's SGD, with learning rate and weight decay multipliers per layer."""

import sys
from typing import Any, cast

import torch
from torch.optim.sgd import sgd

from stylefinetune.config.optim import OptimConfig
from stylefinetune.optim.gradients import FUSED, strided_like

MOMENTUM = "momentum_buffer"


class CaffeSGD(torch.optim.Optimizer):
    """V = momentum * V + lr * lr_mult * (gradient + weight_decay * decay_mult * W); W = W - V.

    In torch.optim.SGD the learning rate is outside V, so a drop of the rate also affects past gradients. In Caffe each
    gradient is added to V with the rate of its own iteration.

    optim.lars_trust enables LARS (You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017): the
    term added to a tensor's V is multiplied by the tensor's local rate

        trust * |W| / (|gradient| + weight_decay * decay_mult * |W|)

    in L2 norms of the whole tensor. As in the authors' code, NVIDIA's Caffe, biases have a local rate too, and it is 1
    if a norm is 0. Unlike there, lr_mult applies as well.

    torch.amp.GradScaler does not wait until it knows whether all gradients are finite. It sets `found_inf`, a scalar on
    the device; if that is not 0, a step changes nothing.

    Args:
        groups: parameter groups with `lr_mult` and `decay_mult`; those that are `frozen` are not updated.
        optim: momentum, weight decay and LARS; the caller sets each group's `lr` before a step.
    """

    _step_supports_amp_scaling = True  # read by GradScaler

    def __init__(self, groups: list[dict[str, Any]], optim: OptimConfig) -> None:
        super().__init__(groups, {"lr": optim.base_lr, "momentum": optim.momentum, "weight_decay": optim.weight_decay})
        self._trust = optim.lars_trust
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter][MOMENTUM] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] -- no closures
        """Update every parameter from its gradient."""
        assert closure is None
        found_inf: torch.Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            if group.get("frozen"):
                continue
            parameters: list[torch.Tensor] = group["params"]
            gradients = [strided_like(parameter, cast("torch.Tensor", parameter.grad)) for parameter in parameters]
            decay = group["weight_decay"] * group["decay_mult"]
            if self._trust:
                gradients, decay = _apply_local_rates(parameters, gradients, decay, self._trust), 0.0
            fused = all(parameter.device.type in FUSED for parameter in parameters)  # DeepSpeed steps empty groups too
            # With a rate of 1 and the gradient's factor in its momentum, PyTorch's rule is Caffe's.
            sgd(
                parameters,
                gradients,
                [self.state[parameter][MOMENTUM] for parameter in parameters],
                fused=fused,
                foreach=not fused,
                found_inf=found_inf,
                weight_decay=decay,
                # Without momentum, PyTorch would not store V. This is 0 in float32.
                momentum=group["momentum"] or sys.float_info.min,
                lr=1.0,
                dampening=1.0 - group["lr"] * group["lr_mult"],
                nesterov=False,
                maximize=False,
            )


def _apply_local_rates(
    parameters: list[torch.Tensor], gradients: list[torch.Tensor], decay: float, trust: float
) -> list[torch.Tensor]:
    """Return each gradient with its decay, times the local rate of LARS."""
    return [
        gradient.add(parameter, alpha=decay).mul_(_local_rate(parameter, gradient, decay, trust))
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]


def _local_rate(parameter: torch.Tensor, gradient: torch.Tensor, decay: float, trust: float) -> torch.Tensor:
    """Return the local rate of LARS, a scalar on the device; does not wait for the device."""
    weight, slope = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(gradient)
    rate = trust * weight / (slope + decay * weight)
    return torch.where((weight > 0) & (slope > 0), rate, 1.0)
