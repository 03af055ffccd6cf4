"""Converts a net's prototxt to the keys of a Config, if the net has CaffeNet's structure.

Nothing is ignored: an unsupported setting is an error that names the layer.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from stylefinetune.caffe.schema import enum_name, message_class
from stylefinetune.errors import UserError

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
    "SoftmaxWithLoss": "loss_param",
    "Accuracy": "accuracy_param",
    "ImageData": "image_data_param",
}
_COMMON = {"name", "type", "bottom", "top", "include", "param"}
# Read below, or without effect on the result.
_FREE = {"num_output", "weight_filler", "bias_filler", "dropout_ratio", "engine"}
_FREE_DATA = {"source", "batch_size", "shuffle", "new_height", "new_width", "root_folder"}


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The list file of an ImageData layer."""

    source: str  # a file of `path label` lines
    root_folder: str  # prefix of each path


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """A net, converted."""

    keys: dict[str, dict[str, Any]]  # sections data, model and optim of a Config
    num_classes: int  # outputs of the last layer
    train: ImageList
    test: ImageList | None


def parse_text(path: Path, kind: str) -> Any:  # noqa: ANN401 -- a message class made at run time
    """Parse a prototxt file as a message of type `kind`.

    Raises:
        UserError: it can't be read or parsed; the message has the line number.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message_class(kind)())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{path}:{' '.join(str(error).split())}") from error


def read_net(path: Path) -> NetConfig:
    """Read a train_val.prototxt.

    Raises:
        UserError: it can't be read, or differs from CaffeNet; the message names the layer.
    """
    net = parse_text(path, "NetParameter")
    check_defaults(net, str(path), free={"name", "layer", "force_backward"})
    phases = {phase: [layer for layer in net.layer if _is_in(layer, phase, path)] for phase in ("TRAIN", "TEST")}
    train = _read_data(phases["TRAIN"], "TRAIN", path)
    assert train is not None
    test = _read_data(phases["TEST"], "TEST", path)
    networks = [_match_caffenet(phases[phase], path) for phase, data in (("TRAIN", train), ("TEST", test)) if data]
    data: dict[str, Any] = {**train[1], "test": {**test[1], "split": "test"} if test else {"split": ""}}
    learned = [layer for layer in networks[0] if layer.type in {"Convolution", "InnerProduct"}]
    outputs = [getattr(layer, _PARAM[layer.type]).num_output for layer in learned]
    weight_stds, bias_values = zip(*(_fillers(layer, path) for layer in learned), strict=True)
    model = {
        "name": net.name or "CaffeNet",
        "last_layer": learned[-1].name,
        "widths": outputs[:-1],
        "weight_filler_std": list(weight_stds),
        "bias_filler_value": list(bias_values),
        "dropout": _dropout(networks[0], path),
    }
    optim = {"layers": [_layer_rule(layer, path) for layer in learned]}
    return NetConfig({"data": data, "model": model, "optim": optim}, outputs[-1], train[0], test and test[0])


def _is_in(layer: Any, phase: str, path: Path) -> bool:  # noqa: ANN401
    """Return whether a layer belongs to a phase. Stages and levels are not supported."""
    if layer.exclude:
        raise UserError(f"{path}: layer {layer.name}: exclude isn't supported; use include")
    for rule in layer.include:
        for field, _ in rule.ListFields():
            if field.name != "phase":
                raise UserError(f"{path}: layer {layer.name}: include.{field.name} isn't supported")
    return not layer.include or any(enum_name(rule, "phase") == phase for rule in layer.include)


def _read_data(layers: list[Any], phase: str, path: Path) -> tuple[ImageList, dict[str, Any]] | None:
    """Return the list file and the `data` keys of a phase; None if there is none for testing."""
    found = [layer for layer in layers if not layer.bottom]
    if not found and phase == "TEST":
        return None
    if len(found) != 1 or found[0].type != "ImageData":
        names = ", ".join(f"{layer.name} ({layer.type})" for layer in found) or "none"
        raise UserError(f"{path}: phase {phase} needs one ImageData layer; it has: {names}")
    (layer,) = found
    where = f"{path}: layer {layer.name} ({phase})"
    check_defaults(layer, where, free={*_COMMON, "image_data_param", "transform_param"})
    check_defaults(layer.image_data_param, f"{where}: image_data_param", free=_FREE_DATA)
    transform, images = layer.transform_param, layer.image_data_param
    mean = {"scale", "mirror", "crop_size", "mean_file", "mean_value"}
    check_defaults(transform, f"{where}: transform_param", free=mean)
    if not images.source:
        raise UserError(f"{where}: image_data_param has no source")
    if bool(images.new_height) != bool(images.new_width):
        raise UserError(f"{where}: set both new_height and new_width, or neither")
    keys = {
        "batch_size": images.batch_size,
        "image_size": [images.new_height, images.new_width] if images.new_height else 0,
        "crop_size": transform.crop_size,
        "mirror": transform.mirror,
        "shuffle": images.shuffle,
        "scale": round_float32(transform.scale),
        "mean_file": transform.mean_file,
        # Without a file and values, Caffe subtracts nothing.
        "mean_value": [round_float32(v) for v in transform.mean_value] or ([] if transform.mean_file else [0.0]),
    }
    return ImageList(images.source, images.root_folder), keys


def _match_caffenet(layers: list[Any], path: Path) -> list[Any]:
    """Return the layers of a phase from conv1 to the classifier, after comparing each with CaffeNet's."""
    rest = (layer for layer in layers if layer.bottom)
    matched: list[Any] = []
    layer = next(rest, None)
    blob = "data"
    for kind, name, required in _LAYERS:
        if kind == "Dropout" and (layer is None or layer.type != "Dropout"):
            continue  # dropout is optional
        if layer is None or layer.type != kind or (name and layer.name != name):
            found = "the end of the net" if layer is None else f"layer {layer.name} ({layer.type})"
            raise UserError(f"{path}: expected {f'{kind} {name}'.strip()} after {blob} as in CaffeNet, found {found}")
        where = f"{path}: layer {layer.name}"
        check_defaults(layer, where, free={*_COMMON, _PARAM[kind]})
        parameters = getattr(layer, _PARAM[kind])
        check_defaults(parameters, f"{where}: {_PARAM[kind]}", required=required, free=_FREE)
        if list(layer.bottom) != [blob] or len(layer.top) != 1:
            raise UserError(f"{where}: its bottom is {', '.join(layer.bottom)}, in CaffeNet it is {blob}")
        matched.append(layer)
        blob = layer.top[0]
        layer = next(rest, None)
    _check_outputs([] if layer is None else [layer, *rest], blob, path)
    return matched


def _check_outputs(layers: list[Any], blob: str, path: Path) -> None:
    """Check that only loss and accuracy layers follow the classifier."""
    for layer in layers:
        where = f"{path}: layer {layer.name}"
        if layer.type not in {"SoftmaxWithLoss", "Accuracy"}:
            raise UserError(f"{where}: a layer of type {layer.type} isn't supported here")
        check_defaults(layer, where, free={*_COMMON, _PARAM[layer.type]})
        check_defaults(getattr(layer, _PARAM[layer.type]), f"{where}: {_PARAM[layer.type]}")
        if list(layer.bottom) != [blob, "label"]:
            raise UserError(f"{where}: its bottoms are {', '.join(layer.bottom)}; only {blob}, label are supported")


def check_defaults(
    message: Message, where: str, free: set[str] | None = None, required: Mapping[str, float] | None = None
) -> None:
    """Check that every field has its `required` value or, if there is none, Caffe's default; `free` ones may have any.

    Raises:
        UserError: a field differs; the message has `where` (file, layer, parameter), the field's name and value.
    """
    for field in message.DESCRIPTOR.fields:
        if field.name in (free or set()):
            continue
        value: Any = getattr(message, field.name)
        expected: Any = (required or {}).get(field.name)
        if field.is_repeated:  # sizes of a convolution are lists: one value for all axes, or one for each
            default = 1 if field.name in {"stride", "dilation"} else 0
            size = default if expected is None else expected
            same = list(value) in ([size], [size, size]) or (expected is None and not value)
        elif field.message_type is not None:
            same = not message.HasField(field.name)
        else:
            same = value == field.default_value if expected is None else math.isclose(value, expected, rel_tol=1e-6)
        if not same:
            shown = " ".join((", ".join(map(str, value)) if field.is_repeated else str(value)).split())
            only = "" if expected is None else f"; CaffeNet has {expected}"
            raise UserError(f"{where}: {field.name} {shown[:60]} isn't supported{only}")


def _fillers(layer: Any, path: Path) -> tuple[float, float]:  # noqa: ANN401 -- see parse_text
    """Return the standard deviation of a layer's initial weights, and the initial value of its biases."""
    parameters = getattr(layer, _PARAM[layer.type])
    weight, bias = parameters.weight_filler, parameters.bias_filler
    zero = weight.type == "constant" and weight.value == 0
    if not zero and (weight.type != "gaussian" or weight.mean or weight.sparse != -1):
        raise UserError(f"{path}: layer {layer.name}: a weight_filler other than gaussian isn't supported")
    if bias.type != "constant":
        raise UserError(f"{path}: layer {layer.name}: a bias_filler other than constant isn't supported")
    return 0.0 if zero else round_float32(weight.std), round_float32(bias.value)


def _dropout(network: list[Any], path: Path) -> float:
    layers = [layer for layer in network if layer.type == "Dropout"]
    ratios = {layer.dropout_param.dropout_ratio for layer in layers}
    if len(layers) not in {0, 2} or len(ratios) > 1:
        names = ", ".join(layer.name for layer in layers)
        raise UserError(f"{path}: layers {names}: only equal dropout after fc6 and fc7, or none, is supported")
    return round_float32(ratios.pop()) if ratios else 0.0


def _layer_rule(layer: Any, path: Path) -> dict[str, Any]:  # noqa: ANN401
    specs = [*layer.param, message_class("ParamSpec")(), message_class("ParamSpec")()][:2]
    for spec in specs:
        check_defaults(spec, f"{path}: layer {layer.name}: param", free={"lr_mult", "decay_mult"})
    if len(layer.param) > 2:
        raise UserError(f"{path}: layer {layer.name}: it has {len(layer.param)} params, but two blobs")
    weight, bias = specs
    mults = {"lr_mult": weight.lr_mult, "decay_mult": weight.decay_mult}
    mults |= {"bias_lr_mult": bias.lr_mult, "bias_decay_mult": bias.decay_mult}
    return {"match": layer.name, **{name: round_float32(value) for name, value in mults.items()}}


def round_float32(value: float) -> float:
    """Return the decimal number in the prototxt; protobuf rounded it to float32."""
    return float(f"{value:.7g}")
