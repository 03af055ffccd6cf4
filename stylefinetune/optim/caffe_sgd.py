"""Caffe's SGD, with learning rate and weight decay multipliers per layer."""

import fnmatch
from typing import Any

import torch
from torch import nn

from stylefinetune.config.schema import LayerRule, OptimConfig
from stylefinetune.errors import UserError
from stylefinetune.models.layer_names import split_parameter

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
            rate = group["lr"] * group["lr_mult"]
            decay = group["weight_decay"] * group["decay_mult"]
            for parameter in group["params"]:
                velocity = self.state[parameter][MOMENTUM]
                update = parameter.grad.add(parameter, alpha=decay)
                if self._trust:
                    update.mul_(_local_rate(parameter, decay, self._trust))
                if found_inf is None:
                    velocity.mul_(group["momentum"]).add_(update, alpha=rate)
                    parameter.sub_(velocity)
                else:
                    new_velocity, skip = velocity.mul(group["momentum"]).add_(update, alpha=rate), found_inf > 0
                    parameter.copy_(torch.where(skip, parameter, parameter - new_velocity))
                    velocity.copy_(torch.where(skip, velocity, new_velocity))


def _local_rate(parameter: torch.Tensor, decay: float, trust: float) -> torch.Tensor:
    """Return the local rate of LARS, a scalar on the device; does not wait for the device."""
    assert parameter.grad is not None
    weight, gradient = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(parameter.grad)
    rate = trust * weight / (gradient + decay * weight)
    return torch.where((weight > 0) & (gradient > 0), rate, 1.0)


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
            raise UserError(f"optim.layers: {rule.match!r} matches no layer; the layers are {', '.join(layers)}")
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
    if blob != "bias":
        return rule.lr_mult, rule.decay_mult
    return 2 * rule.lr_mult if rule.bias_lr_mult is None else rule.bias_lr_mult, rule.bias_decay_mult
