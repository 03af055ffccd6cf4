"""Reads a deploy prototxt: the network, the size of its input, and whether it ends with a softmax or a sigmoid."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from stylefinetune.caffe.graph.read import read_graph
from stylefinetune.caffe.graph.store import store_graph
from stylefinetune.caffe.layers import Layer, Net
from stylefinetune.caffe.net import read_net
from stylefinetune.caffe.prototxt import check_defaults
from stylefinetune.caffe.structure import caffenet_keys
from stylefinetune.config.schema import CAFFE_GRAPH
from stylefinetune.errors import joined_sizes

_FREE = {"name", "layer", "layers", "force_backward", "debug_info", "state", "input", "input_dim", "input_shape"}
_NO_INPUT = "it has no input, so it isn't a deploy prototxt; a deploy prototxt has no data layers and no loss"


@dataclasses.dataclass(frozen=True)
class Deploy:
    """A network for classification."""

    input_size: tuple[int, int]  # (height, width) in pixels
    model: dict[str, Any]  # the section `model` of a Config
    num_classes: int
    loss: Literal["softmax", "bce"]  # by which scores become probabilities: a softmax, or a sigmoid


def read_deploy(path: Path) -> Deploy:
    """Read a deploy prototxt.

    Raises:
        UserError: it can't be read, has an unsupported layer, or isn't for pictures of three channels.
    """
    net = read_net(path)
    check_defaults(net.message, net.place, free=_FREE)
    layers = net.layers("TEST", None)
    blob, size = _read_input(net, layers)
    hidden = [layer for layer in layers if layer.message.type != "Input"]
    has_sigmoid = bool(hidden) and hidden[-1].message.type == "Sigmoid"
    scoring = hidden[:-1] if has_sigmoid else hidden
    graph = read_graph(scoring, blob, None, "TEST", net.place)
    model = caffenet_keys(graph)
    name = net.message.name or ("CaffeNet" if model else "Caffe net")
    if model is None:
        model = {"arch": CAFFE_GRAPH, "prototxt": store_graph(name, scoring, None, (blob,))}
    return Deploy(size, {"display_name": name, **model}, graph.num_classes, "bce" if has_sigmoid else "softmax")


def _read_input(net: Net, layers: list[Layer]) -> tuple[str, tuple[int, int]]:
    """Return the blob of the pictures, and their (height, width): of an Input layer, or of the net's own fields."""
    message = net.message
    found = [layer for layer in layers if not layer.message.bottom]
    other = next((layer for layer in found if layer.message.type != "Input"), None)
    if other is not None:
        raise other.place.error(f"a layer of type {other.message.type}: {_NO_INPUT}", "type")
    if len(found) + len(message.input) != 1:
        raise net.place.error(_NO_INPUT if not found else "it has more than one input")
    if found:
        blob, shapes = found[0].message.top[0], [list(one.dim) for one in found[0].message.input_param.shape]
    else:
        blob, shapes = message.input[0], [list(one.dim) for one in message.input_shape] or [list(message.input_dim)]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or min(shapes[0]) < 1:
        shown = "; ".join(joined_sizes(shape) for shape in shapes if shape) or "missing"
        raise net.place.error(f"the shape of its input is {shown}; it must be Nx3xHEIGHTxWIDTH")
    return blob, (shapes[0][2], shapes[0][3])
