"""Records what a layer of a network computes."""

import difflib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stylefinetune.errors import UserError
from stylefinetune.models.architectures import classifier_layers
from stylefinetune.models.caffe_graph.network import CaffeGraph
from stylefinetune.models.layer_names import layer_name


class LayerOutput:
    """The output of one layer in the last forward pass.

    As Caffe's blobs, it is what the layers above have read: if a ReLU changes the output of fc7 in place, fc7 has the
    result of the ReLU.

    Args:
        net: the network.
        layer: name of the layer as Caffe writes it, or of a Caffe net's blob; None for the input of the classifier.

    Raises:
        UserError: there is no such layer.
    """

    def __init__(self, net: nn.Module, layer: str | None) -> None:
        self._value: Any = None
        modules = _modules(net) | _blobs(net)
        if layer is None:
            classifier = classifier_layers(net)[0]
            self.name = f"input of {layer_name(classifier)}"
            net.get_submodule(classifier).register_forward_pre_hook(self._keep_input)
            return
        if layer not in modules:
            near = difflib.get_close_matches(layer, modules, n=1)
            remedy = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"--layer {layer}: the network has no such layer; {remedy}--list_layers lists them")
        self.name = layer
        modules[layer].register_forward_hook(self._keep_output)

    def take(self) -> torch.Tensor:
        """Return the output for a batch, float32[b, ...], on the CPU.

        Raises:
            UserError: it isn't one tensor with a row for each picture, or the network doesn't use the layer.
        """
        value, self._value = self._value, None
        if not isinstance(value, torch.Tensor):
            found = "computes nothing" if value is None else f"returns a {type(value).__name__}, and not one tensor"
            raise UserError(f"layer {self.name} {found}; --list_layers lists those with a tensor")
        return value.float().cpu()

    def _keep_input(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._value = inputs[0]

    def _keep_output(self, _module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
        self._value = output


@torch.no_grad()
def list_layers(net: nn.Module, forward: Callable[[], object]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, type and shape without the batch of each layer that returns a tensor, in the order of their calls.

    `forward` runs the network once.
    """
    found: dict[str, tuple[str, str, tuple[int, ...]]] = {}
    with _hooks(net, lambda name, kind, output: found.setdefault(name, (name, kind, tuple(output.shape[1:])))):
        forward()
    return list(found.values())


@contextmanager
def _hooks(net: nn.Module, see: Callable[[str, str, torch.Tensor], object]) -> Generator[None]:
    """Call `see` with the name, the type and the output of each layer of a forward pass."""

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
        def hook(module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            if isinstance(output, torch.Tensor):
                see(name, type(module).__name__, output)

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in _modules(net).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blobs(net: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a Caffe net by the blobs that they compute: fc7 is computed by fc7's ReLU in the end."""
    found = net.blob_modules() if isinstance(net, CaffeGraph) else {}
    return {blob: net.get_submodule(module) for blob, module in found.items()}


def _modules(net: nn.Module) -> dict[str, nn.Module]:
    """Return the layers by the names that Caffe's files give them."""
    return {layer_name(name): module for name, module in net.named_modules() if name}
