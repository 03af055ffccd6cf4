"""Groups the parameters of a network by the learning rate and the weight decay that the rules per layer give them."""

import fnmatch
from typing import Any

from torch import nn

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.errors import UserError
from stylefinetune.models.layer_names import split_parameter

MAX_LISTED = 30  # layers in a message


def param_groups(net: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Group the trained parameters by (lr_mult, decay_mult) and freeze those with lr_mult 0.

    Frozen parameters require no gradient, so the backward pass ends at the lowest trained layer.

    Raises:
        UserError: a rule matches no layer, or every layer is frozen.
    """
    layers = list(dict.fromkeys(split_parameter(name)[0] for name, _ in net.named_parameters()))
    for rule in optim.layers:
        if not fnmatch.filter(layers, rule.match):
            shown = ", ".join(layers[:MAX_LISTED]) + (", ..." if len(layers) > MAX_LISTED else "")
            raise UserError(f"optim.layers: {rule.match!r} matches no layer; the layers are {shown}")
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        lr_mult, decay_mult = multipliers(name, optim.layers)
        parameter.requires_grad_(lr_mult != 0)
        if lr_mult != 0:
            key = (lr_mult, decay_mult)
            group = groups.setdefault(key, {"params": [], "lr_mult": lr_mult, "decay_mult": decay_mult})
            group["params"].append(parameter)
    if not groups:
        raise UserError("optim.layers freezes every layer; set lr_mult above 0 for at least one")
    return list(groups.values())


def lr_mults(net: nn.Module, optim: OptimConfig) -> list[float]:
    """Return the distinct lr_mult of the trained parameters, ascending."""
    return sorted({multipliers(name, optim.layers)[0] for name, _ in net.named_parameters()} - {0.0})


def multipliers(name: str, rules: tuple[LayerRule, ...]) -> tuple[float, float]:
    """Return (lr_mult, decay_mult) of a parameter, for example fc8_flickr.bias."""
    layer, blob = split_parameter(name)
    rule = next((rule for rule in rules if fnmatch.fnmatchcase(layer, rule.match)), LayerRule(match=layer))
    if not blob.endswith("bias"):  # such as in_proj_bias of an attention layer
        return rule.lr_mult, rule.decay_mult
    return 2 * rule.lr_mult if rule.bias_lr_mult is None else rule.bias_lr_mult, rule.bias_decay_mult
