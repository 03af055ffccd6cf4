"""Recognizes nets with CaffeNet's structure, and converts them to the keys of a Config.

They are trained by `models.caffenet`, other nets by `models.caffe_graph`. Both compute the same; the settings and the
checkpoints of the first one, which is older, stay what they are.
"""

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from stylefinetune.caffe.graph.kinds import SIZES, parameters_of, sides
from stylefinetune.caffe.graph.read import Graph, Scores
from stylefinetune.caffe.layers import Layer
from stylefinetune.caffe.prototxt import round_float32

# The layers of CaffeNet: type, name if they have weights, and parameters that are not Caffe's defaults.
_POOL = {"pool": 0, "kernel_size": 3, "stride": 2}
_LRN = {"local_size": 5, "alpha": 1e-4, "beta": 0.75}
_LAYERS: tuple[tuple[str, str, Mapping[str, float]], ...] = (
    ("Convolution", "conv1", {"kernel_size": 11, "stride": 4}),
    ("ReLU", "", {}),
    ("Pooling", "", _POOL),
    ("LRN", "", _LRN),
    ("Convolution", "conv2", {"kernel_size": 5, "pad": 2, "group": 2}),
    ("ReLU", "", {}),
    ("Pooling", "", _POOL),
    ("LRN", "", _LRN),
    ("Convolution", "conv3", {"kernel_size": 3, "pad": 1}),
    ("ReLU", "", {}),
    ("Convolution", "conv4", {"kernel_size": 3, "pad": 1, "group": 2}),
    ("ReLU", "", {}),
    ("Convolution", "conv5", {"kernel_size": 3, "pad": 1, "group": 2}),
    ("ReLU", "", {}),
    ("Pooling", "", _POOL),
    ("InnerProduct", "fc6", {}),
    ("ReLU", "", {}),
    ("Dropout", "", {}),
    ("InnerProduct", "fc7", {}),
    ("ReLU", "", {}),
    ("Dropout", "", {}),
    ("InnerProduct", "", {}),
)
# Converted below, or without effect on the result.
_FREE = {"num_output", "weight_filler", "bias_filler", "dropout_ratio", "engine", "force_nd_im2col"}


def caffenet_keys(graph: Graph) -> dict[str, Any] | None:
    """Return the section `model` of a Config for a net with CaffeNet's structure; None for other nets."""
    if not _is_caffenet(graph):
        return None
    learned = graph.learned
    fillers = [filler for filler in map(_fillers, learned) if filler]
    dropout = {parameters_of(layer).dropout_ratio for layer in graph.layers if layer.message.type == "Dropout"}
    widths = [parameters_of(layer).num_output for layer in learned[:-1]]
    if len(fillers) < len(learned) or len(dropout) > 1 or any(width % 2 for width in widths[:5]):
        return None
    stds, biases = zip(*fillers, strict=True)
    return {
        "last_layer": learned[-1].message.name,
        "widths": widths,
        "weight_filler_std": list(stds),
        "bias_filler_value": list(biases),
        "dropout": round_float32(dropout.pop()) if dropout else 0.0,
    }


def _is_caffenet(graph: Graph) -> bool:
    """Return whether the layers are CaffeNet's, one after the other; dropout is optional."""
    drops = sum(layer.message.type == "Dropout" for layer in graph.layers)
    expected = [entry for entry in _LAYERS if drops or entry[0] != "Dropout"]
    if drops not in {0, 2} or len(graph.layers) != len(expected):
        return False
    blob = graph.pictures
    for layer, (kind, name, parameters) in zip(graph.layers, expected, strict=True):
        message = layer.message
        if message.type != kind or name not in {"", message.name} or list(message.bottom) != [blob]:
            return False
        if not _has_values(parameters_of(layer), parameters):
            return False
        blob = message.top[0]
    return graph.scores == [Scores(blob, 1.0)]


def _has_values(message: Message, required: Mapping[str, float]) -> bool:
    """Return whether the fields have the required values, or else Caffe's defaults."""
    for field in message.DESCRIPTOR.fields:
        name = field.name
        if name in _FREE or name.endswith(("_h", "_w")):
            continue
        values = sides(message, name) if name in SIZES else (getattr(message, name),)
        default: Any = field.default_value
        expected: Any = required.get(name, SIZES.get(name, default))
        if not all(math.isclose(value, expected, rel_tol=1e-6) for value in values):
            return False
    return True


def _fillers(layer: Layer) -> tuple[float, float] | None:
    """Return the standard deviation of a layer's initial weights and the initial value of its biases.

    None for other fillers than CaffeNet's, gaussian and constant.
    """
    weight, bias = parameters_of(layer).weight_filler, parameters_of(layer).bias_filler
    zero = weight.type == "constant" and weight.value == 0
    if bias.type != "constant" or not (zero or (weight.type == "gaussian" and not weight.mean and weight.sparse == -1)):
        return None
    return 0.0 if zero else round_float32(weight.std), round_float32(bias.value)
