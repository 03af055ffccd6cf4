"""Learning rate multipliers that fall from the classifier to the stem, as in Clark et al., "ELECTRA" (2020), and BEiT.

The network is divided into blocks in the order of its layers. With optim.layer_decay d, the classifier has the
multiplier 1, the block before it d, the one before that d^2, and so on.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Classes of torchvision that contain a list of blocks, and are no block themselves.
_OUTER = ("Encoder", "MaxVitBlock")


def layer_decays(net: nn.Module, decay: float) -> dict[str, float]:
    """Return the multiplier of each parameter of the network."""
    depths = block_numbers(net)
    last = max(depths.values())
    return {name: decay ** (last - depth) for name, depth in depths.items()}


def block_numbers(net: nn.Module) -> dict[str, int]:
    """Return the number of each parameter's block, from 0 for the stem to the highest for the classifier.

    In timm's networks these are timm's own groups. Otherwise a block is a residual block, such as layer1.0 of a ResNet,
    or a layer outside such blocks. A normalization belongs to the block before it, and parameters of the network that
    are in no layer, such as class_token, to the stem.
    """
    group_matcher: Any = getattr(net, "group_matcher", None)
    if group_matcher is not None:
        from timm.models import group_parameters  # noqa: PLC0415 -- see models.architectures

        return group_parameters(net, group_matcher(coarse=False), reverse=True)
    numbers: dict[str, int] = {}
    number = -1
    for path, block in _blocks(net, ""):
        parameters = dict(block.named_parameters())
        if number < 0 or any(parameter.ndim > 1 for parameter in parameters.values()):
            number += 1
        numbers.update((f"{path}{name}", number) for name in parameters)
    return {name: numbers.get(name, 0) for name, _ in net.named_parameters()}


def _blocks(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks with parameters inside `module`, and the beginning of their parameters' names."""
    for name, child in module.named_children():
        if not any(True for _ in child.parameters()):
            continue
        if _contains_blocks(child):
            yield from _blocks(child, f"{path}{name}.")
        else:
            yield f"{path}{name}.", child


def _contains_blocks(module: nn.Module) -> bool:
    """Return whether a module is a list of blocks: a plain container, or one that a network's own module derives."""
    kind = type(module)
    is_own = kind.__module__.startswith("torchvision.models.")
    return kind in _CONTAINERS or (is_own and (kind.__name__ in _OUTER or issubclass(kind, _CONTAINERS)))
