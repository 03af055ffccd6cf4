"""Converts a net to the keys of a Config, if the net has CaffeNet's structure.

Nothing that changes a result is ignored: an unsupported setting is an error that names the file, line and layer.
"""

import collections
import dataclasses
from collections.abc import Mapping
from glob import escape
from typing import Any

from stylefinetune.caffe.layers import Layer
from stylefinetune.caffe.prototxt import Place, check_defaults, round_float32
from stylefinetune.caffe.schema import enum_name, message_class

# The layers of CaffeNet: type, name if they have weights, and required parameters.
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
_PARAM = {
    "Convolution": "convolution_param",
    "Pooling": "pooling_param",
    "LRN": "lrn_param",
    "InnerProduct": "inner_product_param",
    "Dropout": "dropout_param",
    "ReLU": "relu_param",
}
_LEARNED = ("Convolution", "InnerProduct")
# Read below, or without effect on the result.
_FREE = {"num_output", "weight_filler", "bias_filler", "dropout_ratio", "engine", "force_nd_im2col"}
_NORMALIZED = {"FULL", "VALID", "BATCH_SIZE"}  # equal for one label a picture, unless it is ignored


@dataclasses.dataclass(frozen=True)
class Network:
    """The layers of a phase from conv1 to the classifier."""

    layers: list[Layer]

    @property
    def learned(self) -> list[Layer]:
        """The layers with weights."""
        return [layer for layer in self.layers if layer.message.type in _LEARNED]

    @property
    def outputs(self) -> list[tuple[str, int]]:
        """The name and the number of outputs of each layer with weights."""
        return [(one.message.name, _parameters(one).num_output) for one in self.learned]


def match_caffenet(layers: list[Layer], data: str, label: str, phase: str, place: Place) -> Network:
    """Compare the layers of a phase with CaffeNet's; `data` and `label` are the blobs of its pictures and labels.

    Raises:
        UserError: a layer differs.
    """
    rest = iter(layers)
    matched: list[Layer] = []
    layer = next(rest, None)
    blob = data
    for kind, name, required in _LAYERS:
        if kind == "Dropout" and (layer is None or layer.message.type != "Dropout"):
            continue  # dropout is optional
        expected = f"expected {f'{kind} {name}'.strip()} after {blob} as in CaffeNet, found"
        if layer is None:
            raise place.error(f"{expected} the end of the net")
        if layer.message.type != kind or (name and layer.message.name != name):
            raise layer.place.error(f"{expected} this layer of type {layer.message.type}")
        _check_hidden(layer, blob, required, phase)
        matched.append(layer)
        blob = layer.message.top[0]
        layer = next(rest, None)
    network = Network(matched)
    _check_ends([] if layer is None else [layer, *rest], network, (blob, label), phase)
    _check_shared_names(network)
    return network


def _check_hidden(layer: Layer, blob: str, required: Mapping[str, float], phase: str) -> None:
    """Check a layer between the pictures and the loss."""
    message, kind = layer.message, layer.message.type
    if list(message.bottom) != [blob] or len(message.top) != 1:
        found = ", ".join(message.bottom) or "none"
        raise layer.place.error(f"its bottom is {found} and its top {', '.join(message.top)}; in CaffeNet it is {blob}")
    _check_common(layer, loss_weight=0.0, phase=phase)
    if any(not flag for flag in message.propagate_down) and message.name != "conv1":
        raise layer.place.error("propagate_down: false isn't supported; use lr_mult: 0 below it", "propagate_down")
    parameters = _parameters(layer)
    for name, size in (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad")):
        _fold_sides(parameters, name, size)
    check_defaults(parameters, layer.place_of(_PARAM[kind]), required=required, free=_FREE)
    if kind in _LEARNED and parameters.num_output < 1:
        raise layer.place_of(_PARAM[kind]).error("num_output is missing")


def _check_common(layer: Layer, loss_weight: float, phase: str) -> None:
    """Check the fields that layers of all types have."""
    message = layer.message
    if message.blobs:
        raise layer.place.error("blobs aren't supported; give weights with --weights", "blobs")
    if message.HasField("phase") and enum_name(message, "phase") != phase:
        raise layer.place.error(
            f"phase isn't supported; use include {{ phase: {enum_name(message, 'phase')} }}", "phase"
        )
    for index, weight in enumerate(message.loss_weight):
        expected = loss_weight if index == 0 else 0.0
        if weight != expected:
            raise layer.place.error(f"loss_weight {weight:g} isn't supported; it must be {expected:g}", "loss_weight")


def _fold_sides(parameters: Any, name: str, size: str) -> None:  # noqa: ANN401 -- a message class made at run time
    """Replace equal kernel_h and kernel_w by kernel_size, and so on."""
    fields = parameters.DESCRIPTOR.fields_by_name
    if name not in fields or f"{size}_h" not in fields:
        return
    height, width = getattr(parameters, f"{size}_h"), getattr(parameters, f"{size}_w")
    if height and height == width:
        parameters.ClearField(f"{size}_h")
        parameters.ClearField(f"{size}_w")
        if fields[name].is_repeated:
            getattr(parameters, name)[:] = [height]
        else:
            setattr(parameters, name, height)


def _check_ends(layers: list[Layer], network: Network, blobs: tuple[str, str], phase: str) -> None:
    """Check that only losses, accuracies and layers without effect follow the classifier, and one loss in training."""
    last, classes = network.outputs[-1]
    losses = [layer for layer in layers if layer.message.type == "SoftmaxWithLoss"]
    for layer in layers:
        message = layer.message
        bottoms = list(blobs)
        match message.type:
            case "SoftmaxWithLoss":
                _check_loss(layer, classes)
            case "Accuracy":
                check_defaults(message.accuracy_param, layer.place_of("accuracy_param"), free={"top_k", "ignore_label"})
                _check_ignored(layer, "accuracy_param", classes)
            case "Softmax":
                bottoms = [blobs[0]]
                check_defaults(message.softmax_param, layer.place_of("softmax_param"), free={"engine"})
            case "Silence":
                bottoms = list(message.bottom)
            case kind:
                raise layer.place.error(f"a layer of type {kind} isn't supported here")
        _check_common(layer, loss_weight=float(layer in losses), phase=phase)
        if list(message.bottom) != bottoms:
            found = ", ".join(message.bottom)
            raise layer.place.error(f"its bottoms are {found}; only {', '.join(bottoms)} are supported", "bottom")
    if phase == "TRAIN" and len(losses) != 1:
        place = (losses or network.layers)[-1].place
        raise place.error(f"{len(losses)} SoftmaxWithLoss layers follow {last} in training; only one is supported")


def _check_loss(layer: Layer, classes: int) -> None:
    loss, place = layer.message.loss_param, layer.place_of("loss_param")
    if list(layer.message.propagate_down)[:1] == [False]:
        raise layer.place.error("propagate_down: false isn't supported", "propagate_down")
    if enum_name(loss, "normalization") not in _NORMALIZED:
        raise place.error("normalization: NONE isn't supported", "normalization")
    check_defaults(loss, place, free={"normalization", "normalize", "ignore_label"})
    check_defaults(layer.message.softmax_param, layer.place_of("softmax_param"), free={"engine"})
    _check_ignored(layer, "loss_param", classes)


def _check_ignored(layer: Layer, param: str, classes: int) -> None:
    parameters = getattr(layer.message, param)
    if parameters.HasField("ignore_label") and 0 <= parameters.ignore_label < classes:
        place = layer.place_of(param)
        raise place.error(
            f"ignore_label {parameters.ignore_label} isn't supported, since it is a class", "ignore_label"
        )


def _check_shared_names(network: Network) -> None:
    """Check that no two parameters have the same name: Caffe would share their weights."""
    named = [(spec.name, layer) for layer in network.learned for spec in layer.message.param if spec.name]
    counts = collections.Counter(name for name, _ in named)
    for name, layer in named:
        if counts[name] > 1:
            raise layer.place.error(f"param: two blobs are called {name}; shared weights aren't supported", "param")


def model_keys(network: Network) -> dict[str, Any]:
    """Return the section `model` of a Config."""
    *trunk, (last, _) = network.outputs
    stds, biases = zip(*map(_fillers, network.learned), strict=True)
    return {
        "last_layer": last,
        "widths": [width for _, width in trunk],
        "weight_filler_std": list(stds),
        "bias_filler_value": list(biases),
        "dropout": _dropout(network),
    }


def layer_rules(network: Network) -> list[dict[str, Any]]:
    """Return optim.layers of a Config."""
    return list(map(_layer_rule, network.learned))


def _parameters(layer: Layer) -> Any:  # noqa: ANN401
    return getattr(layer.message, _PARAM[layer.message.type])


def _fillers(layer: Layer) -> tuple[float, float]:
    """Return the standard deviation of a layer's initial weights, and the initial value of its biases."""
    parameters, place = _parameters(layer), layer.place_of(_PARAM[layer.message.type])
    weight, bias = parameters.weight_filler, parameters.bias_filler
    zero = weight.type == "constant" and weight.value == 0
    if not zero and (weight.type != "gaussian" or weight.mean or weight.sparse != -1):
        raise place.error("a weight_filler other than gaussian isn't supported", "weight_filler")
    if bias.type != "constant":
        raise place.error("a bias_filler other than constant isn't supported", "bias_filler")
    return 0.0 if zero else round_float32(weight.std), round_float32(bias.value)


def _dropout(network: Network) -> float:
    layers = [layer for layer in network.layers if layer.message.type == "Dropout"]
    ratios = {layer.message.dropout_param.dropout_ratio for layer in layers}
    if len(layers) not in {0, 2} or len(ratios) > 1:
        names = ", ".join(layer.message.name for layer in layers)
        raise layers[-1].place.error(f"layers {names}: only equal dropout after fc6 and fc7, or none, is supported")
    return round_float32(ratios.pop()) if ratios else 0.0


def _layer_rule(layer: Layer) -> dict[str, Any]:
    specs = list(layer.message.param)
    if len(specs) > 2:
        raise layer.place.error(f"it has {len(specs)} params, but two blobs", "param", 2)
    weight, bias = [*specs, message_class("ParamSpec")(), message_class("ParamSpec")()][:2]
    mults = {"lr_mult": weight.lr_mult, "decay_mult": weight.decay_mult}
    mults |= {"bias_lr_mult": bias.lr_mult, "bias_decay_mult": bias.decay_mult}
    return {"match": escape(layer.message.name), **{name: round_float32(value) for name, value in mults.items()}}
