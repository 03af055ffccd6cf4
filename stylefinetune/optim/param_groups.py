"""Groups the parameters of a network by what the rules per layer give them: learning rate, weight decay, freezing."""

import dataclasses
import fnmatch
from typing import Any

import torch
from torch import nn

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.errors import UserError
from stylefinetune.models.layer_names import split_parameter
from stylefinetune.optim.layer_decay import layer_decays

MAX_LISTED = 30  # layers in a message


@dataclasses.dataclass(frozen=True)
class Multipliers:
    """What the rules give a parameter."""

    lr_mult: float  # 0 freezes it
    decay_mult: float
    freeze_until: int  # the iteration before which it is frozen


def param_groups(net: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Group the trained parameters by their multipliers, and freeze those with lr_mult 0.

    Frozen parameters require no gradient, so the backward pass ends at the lowest trained layer. Of parameters that are
    frozen until an iteration, see `freeze_groups`.

    Raises:
        UserError: a rule matches no layer, or every layer is frozen.
    """
    layers = list(dict.fromkeys(split_parameter(name)[0] for name, _ in net.named_parameters()))
    for rule in optim.layers:
        if not fnmatch.filter(layers, rule.match):
            shown = ", ".join(layers[:MAX_LISTED]) + (", ..." if len(layers) > MAX_LISTED else "")
            raise UserError(f"optim.layers: {rule.match!r} matches no layer; the layers are {shown}")
    groups: dict[Multipliers, dict[str, Any]] = {}
    parameters = dict(net.named_parameters())
    for name, given in multipliers(net, optim).items():
        parameters[name].requires_grad_(given.lr_mult != 0)
        if given.lr_mult != 0:
            group = groups.setdefault(given, {"params": [], **dataclasses.asdict(given), "frozen": False})
            group["params"].append(parameters[name])
    if not groups:
        raise UserError("optim.layers freezes every layer; set lr_mult above 0 for at least one")
    first = min(given.freeze_until for given in groups)
    if first > 0:
        raise UserError(
            f"optim.layers freezes every layer until iteration {first}; remove freeze_until of at least one"
        )
    return list(groups.values())


def lr_mults(net: nn.Module, optim: OptimConfig) -> list[float]:
    """Return the distinct lr_mult of the trained parameters, ascending; with optim.layer_decay, the ends alone."""
    found = sorted({given.lr_mult for given in multipliers(net, optim).values()} - {0.0})
    return found if optim.layer_decay == 1 else [found[0], found[-1]]


def multipliers(net: nn.Module, optim: OptimConfig) -> dict[str, Multipliers]:
    """Return what the rules, optim.layer_decay and optim.decay_norms give each parameter."""
    parameters = dict(net.named_parameters())
    decays = layer_decays(net, optim.layer_decay) if optim.layer_decay < 1 else dict.fromkeys(parameters, 1.0)
    given: dict[str, Multipliers] = {}
    for name, parameter in parameters.items():
        found = rule_multipliers(name, optim.layers)
        decay_mult = found.decay_mult if optim.decay_norms or parameter.ndim > 1 else 0.0
        given[name] = dataclasses.replace(found, lr_mult=found.lr_mult * decays[name], decay_mult=decay_mult)
    return given


def rule_multipliers(name: str, rules: tuple[LayerRule, ...]) -> Multipliers:
    """Return what the rules give a parameter, for example fc8_flickr.bias."""
    layer, blob = split_parameter(name)
    rule = next((rule for rule in rules if fnmatch.fnmatchcase(layer, rule.match)), LayerRule(match=layer))
    if not blob.endswith("bias"):  # such as in_proj_bias of an attention layer
        return Multipliers(rule.lr_mult, rule.decay_mult, rule.freeze_until)
    lr_mult = 2 * rule.lr_mult if rule.bias_lr_mult is None else rule.bias_lr_mult
    return Multipliers(lr_mult, rule.bias_decay_mult, rule.freeze_until)


def freeze_groups(optimizer: torch.optim.Optimizer, iteration: int) -> bool:
    """Freeze the parameter groups that are not trained in an iteration, and no others; return whether any changes.

    The optimizer does not update a frozen group, and its state does not change. The caller lets its gradients be None
    or 0, so that they do not count in the norm of all gradients.
    """
    changes = False
    for group in optimizer.param_groups:
        frozen = iteration < group["freeze_until"]
        changes = changes or frozen != group["frozen"]
        group["frozen"] = frozen
    return changes
