"""Caffe's SGD, with learning rate and weight decay multipliers per layer."""

import fnmatch
import sys
from typing import Any, cast

import torch
from torch import nn
from torch.optim.sgd import sgd

from stylefinetune.config.schema import LayerRule, OptimConfig
from stylefinetune.errors import UserError
from stylefinetune.models.layer_names import split_parameter

MOMENTUM = "momentum_buffer"
MAX_LISTED = 30  # layers in a message
_FUSED = ("cpu", "cuda")  # devices with a kernel that does a whole update in one pass


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
        groups: parameter groups with `lr_mult` and `decay_mult`.
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
            parameters: list[torch.Tensor] = group["params"]
            gradients = [_strided_like(parameter, cast("torch.Tensor", parameter.grad)) for parameter in parameters]
            decay = group["weight_decay"] * group["decay_mult"]
            if self._trust:
                gradients, decay = _apply_local_rates(parameters, gradients, decay, self._trust), 0.0
            fused = all(parameter.device.type in _FUSED for parameter in parameters)  # DeepSpeed steps empty groups too
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


def _strided_like(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient with the strides of its parameter, which the fused kernel requires and does not check."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


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


def clip_gradients(optimizer: torch.optim.Optimizer, limit: float) -> None:
    """Scale all gradients so that their total L2 norm is at most `limit`; does not wait for the device."""
    gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    factor = (limit / torch.nn.utils.get_total_norm(gradients)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def param_groups(net: nn.Module, rules: tuple[LayerRule, ...]) -> list[dict[str, Any]]:
    """Group the trained parameters by (lr_mult, decay_mult) and freeze those with lr_mult 0.

    Frozen parameters require no gradient, so the backward pass ends at the lowest trained layer.

    Raises:
        UserError: a rule matches no layer, or every layer is frozen.
    """
    layers = list(dict.fromkeys(split_parameter(name)[0] for name, _ in net.named_parameters()))
    for rule in rules:
        if not fnmatch.filter(layers, rule.match):
            shown = ", ".join(layers[:MAX_LISTED]) + (", ..." if len(layers) > MAX_LISTED else "")
            raise UserError(f"optim.layers: {rule.match!r} matches no layer; the layers are {shown}")
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        lr_mult, decay_mult = multipliers(name, rules)
        parameter.requires_grad_(lr_mult != 0)
        if lr_mult != 0:
            key = (lr_mult, decay_mult)
            group = groups.setdefault(key, {"params": [], "lr_mult": lr_mult, "decay_mult": decay_mult})
            group["params"].append(parameter)
    if not groups:
        raise UserError("optim.layers freezes every layer; set lr_mult above 0 for at least one")
    return list(groups.values())


def lr_mults(net: nn.Module, rules: tuple[LayerRule, ...]) -> list[float]:
    """Return the distinct lr_mult of the trained parameters, ascending."""
    return sorted({multipliers(name, rules)[0] for name, _ in net.named_parameters()} - {0.0})


def multipliers(name: str, rules: tuple[LayerRule, ...]) -> tuple[float, float]:
    """Return (lr_mult, decay_mult) of a parameter, for example fc8_flickr.bias."""
    layer, blob = split_parameter(name)
    rule = next((rule for rule in rules if fnmatch.fnmatchcase(layer, rule.match)), LayerRule(match=layer))
    if not blob.endswith("bias"):  # such as in_proj_bias of an attention layer
        return rule.lr_mult, rule.decay_mult
    return 2 * rule.lr_mult if rule.bias_lr_mult is None else rule.bias_lr_mult, rule.bias_decay_mult
