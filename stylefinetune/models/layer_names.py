"""Maps Caffe's layer names, which are any text, to names of PyTorch's modules and back.

A module's name has no dot, and is no attribute of its parent. Such names are percent-encoded; most stay as they are.
"""

from urllib.parse import unquote

from torch import nn


def module_name(layer: str) -> str:
    """Return the name of a layer's module, for example fc8%2Emine for fc8.mine."""
    name = layer.replace("%", "%25").replace(".", "%2E")
    return f"%{ord(name[0]):02X}{name[1:]}" if hasattr(nn.Sequential(), name) else name


def layer_name(module: str) -> str:
    """Return the name of a module's layer."""
    return unquote(module)


def split_parameter(name: str) -> tuple[str, str]:
    """Return the layer and the kind of a parameter, for example fc8.mine and bias for fc8%2Emine.bias.

    A parameter outside any layer, such as class_token of a vision transformer, is a layer without kinds.
    """
    module, _, kind = name.rpartition(".")
    return (layer_name(module), kind) if module else (kind, "")
