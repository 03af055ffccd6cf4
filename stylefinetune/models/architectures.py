"""Builds the classification networks of torchvision and of timm by name.

Both are imported only when they are used: the import takes seconds, and CaffeNet needs neither.
"""

import contextlib
import difflib
import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from shards.format import joined_lines
from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError, joined_sizes

TIMM = "timm/"  # prefix of the names of timm's networks
MAX_LISTED = 8
Size = tuple[int, int]  # (height, width) in pixels

# torchvision's networks with weights for one input size only, by the beginning of their name: the builder's argument.
_FIXED_SIZE = {"vit_": "image_size", "maxvit_": "input_size"}
# The auxiliary classifiers of the Inception papers serve training from random weights; their loss is not used here.
_ARGUMENTS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
# Sides to suggest for an input that a network can't have: those of the published weights, and smaller ones.
_SIDES = (32, 64, 75, 96, 112, 128, 160, 192, 224, 240, 256, 260, 288, 299, 300, 320, 336, 380, 384, 448, 456, 480, 512)


def check_arch(arch: str) -> None:
    """Check that there is a network of this name.

    Raises:
        UserError: there is none, or timm isn't installed.
    """
    if not arch.startswith(TIMM):
        names = _torchvision_names()
        if arch not in names:
            near = difflib.get_close_matches(arch, ["caffenet", *names], n=1)
            remedy = f"did you mean {near[0]}?" if near else f"it may be caffenet, {', '.join(names[:MAX_LISTED])}, ..."
            raise UserError(
                f"model.arch is {arch!r}, an unknown network (model.display_name is the name in the log); {remedy}"
            )
        return
    if importlib.util.find_spec("timm") is None:
        raise UserError(f"model.arch is {arch}, but timm isn't installed; run: pip install 'stylefinetune[timm]'")
    import timm  # noqa: PLC0415 -- see the module's docstring

    if not timm.is_model(arch.removeprefix(TIMM)):
        near = difflib.get_close_matches(arch.removeprefix(TIMM), timm.list_models(), n=1)
        remedy = f"did you mean {TIMM}{near[0]}?" if near else "timm.list_models() lists them"
        raise UserError(f"model.arch is {arch!r}, but timm has no such network; {remedy}")


def build_architecture(model: ModelConfig, num_classes: int, input_size: Size, seed: int) -> nn.Module:
    """Build a network of torchvision or timm with the initial weights of its authors.

    Equal seeds give equal weights, whatever was drawn before, and the state of PyTorch's generator does not change.

    Raises:
        UserError: there is no such network, it can't have the input, or it lacks a setting of `model`.
    """
    check_arch(model.arch)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            net = _build(model.arch, num_classes, input_size, model.drop_path)
        except (ValueError, AssertionError) as error:  # of networks that are built for one input size
            raise _input_error(model.arch, input_size, error, lambda size: _try_build(model.arch, size)) from error
    _set_dropout(net, model)
    _set_drop_path(net, model)
    return net


def check_inputs(net: nn.Module, arch: str, num_classes: int, sizes: list[Size]) -> None:
    """Check that a network can have inputs of these sizes, without computing anything.

    Raises:
        UserError: it can't; the message suggests a size that it can have.
    """
    for size in dict.fromkeys(sizes):
        error = _try_input(net, num_classes, size)
        if error is None:
            continue
        if size != sizes[0]:
            test, training = joined_sizes(size), joined_sizes(sizes[0])
            raise UserError(
                f"{arch} can't have inputs of {test} pixels in testing and {training} in training "
                f"({joined_lines(error)}); set data.crop_size and data.test.crop_size to the same value"
            )
        raise _input_error(arch, size, error, lambda other: _try_input(net, num_classes, other) is None)


def classifier_layers(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that compute the scores of the classes: one, except in some networks of timm.

    In torchvision's networks, as in CaffeNet, it is the last module with parameters.
    """
    if (names := getattr(net, "pretrained_cfg", {}).get("classifier")) is not None:
        return (names,) if isinstance(names, str) else tuple(names)
    *_, last = (name for name, module in net.named_modules() if any(True for _ in module.parameters(recurse=False)))
    return (last,)


def _torchvision_names() -> list[str]:
    import torchvision.models  # noqa: PLC0415 -- see the module's docstring

    return torchvision.models.list_models(module=torchvision.models)


def _build(arch: str, num_classes: int, input_size: Size, drop_path: float | None = None) -> nn.Module:
    """Build a network; those of timm have a module that skips a block only if they are built with a `drop_path`."""
    if arch.startswith(TIMM):
        name = arch.removeprefix(TIMM)
        with contextlib.suppress(TypeError):  # a network that skips no blocks has no such argument
            if drop_path:
                return _build_timm(name, num_classes, input_size, pretrained=False, drop_path_rate=drop_path)
        return _build_timm(name, num_classes, input_size, pretrained=False)
    from torchvision.models import get_model  # noqa: PLC0415 -- see the module's docstring

    arguments: dict[str, Any] = dict(_ARGUMENTS.get(arch, {}))
    for beginning, argument in _FIXED_SIZE.items():
        if arch.startswith(beginning):
            if input_size[0] != input_size[1]:
                raise ValueError("they are not square")
            arguments[argument] = input_size[0] if argument == "image_size" else input_size
    return get_model(arch, num_classes=num_classes, **arguments)


def _build_timm(
    name: str,
    num_classes: int | None,
    input_size: Size,
    *,
    pretrained: bool,
    **arguments: Any,  # noqa: ANN401 -- timm's
) -> nn.Module:
    import timm  # noqa: PLC0415 -- see the module's docstring

    arguments |= {} if num_classes is None else {"num_classes": num_classes}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        arguments["img_size"] = input_size
    return timm.create_model(name, pretrained=pretrained, **arguments)


def build_pretrained_timm(arch: str, input_size: Size) -> nn.Module:
    """Return timm's pretrained network with its own classes; the weights are downloaded into timm's cache."""
    return _build_timm(arch.removeprefix(TIMM), None, input_size, pretrained=True)


def _set_dropout(net: nn.Module, model: ModelConfig) -> None:
    if model.dropout is None:
        return
    layers = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise UserError(f"model.dropout is {model.dropout:g}, but {model.arch} has no dropout layer; remove it")
    for layer in layers:
        layer.p = model.dropout


def _set_drop_path(net: nn.Module, model: ModelConfig) -> None:
    """Scale the probabilities of all blocks, so that the largest is model.drop_path."""
    if model.drop_path is None:
        return
    # Their classes are torchvision.ops.StochasticDepth and timm.layers.DropPath.
    blocks: list[tuple[Any, str]] = [
        (module, "p" if type(module).__name__ == "StochasticDepth" else "drop_prob")
        for module in net.modules()
        if type(module).__name__ in ("StochasticDepth", "DropPath")
    ]
    largest = max((getattr(block, name) for block, name in blocks), default=0.0)
    if largest == 0:
        if model.drop_path == 0:
            return
        raise UserError(f"model.drop_path is {model.drop_path:g}, but {model.arch} skips no blocks; remove it")
    for block, name in blocks:
        setattr(block, name, getattr(block, name) * (model.drop_path / largest))


def _try_input(net: nn.Module, num_classes: int, size: Size) -> Exception | None:
    """Return why the network can't have inputs of this size; on the meta device, where nothing is computed."""
    # With the buffers that state_dict omits, such as the indices of relative positions.
    named = itertools.chain(net.named_parameters(), net.named_buffers())
    tensors = {name: tensor.to("meta") for name, tensor in named}
    training = net.training
    try:
        with torch.no_grad():
            scores = functional_call(net.eval(), tensors, torch.empty(1, 3, *size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        return error
    finally:
        net.train(training)
    return None if scores.shape == (1, num_classes) else ValueError(f"its output is {list(scores.shape)}")


def _try_build(arch: str, size: Size) -> bool:
    """Return whether a network can be built for inputs of this size."""
    try:
        _build(arch, 1, size)
    except (ValueError, AssertionError):
        return False
    return True


def _input_error(arch: str, size: Size, error: Exception, works: Callable[[Size], bool]) -> UserError:
    """Return the error for an input that the network can't have, with the nearest side for which it `works`."""
    near = sorted(_SIDES, key=lambda side: abs(side - math.sqrt(size[0] * size[1])))
    side = next((side for side in near if (side, side) != size and works((side, side))), None)
    remedy = "" if side is None else f"; set it to {side}, for example"
    return UserError(
        f"data.crop_size makes inputs of {joined_sizes(size)} pixels, which {arch} can't have "
        f"({joined_lines(error)}){remedy}"
    )
