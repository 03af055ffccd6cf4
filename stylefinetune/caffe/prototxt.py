"""A net's prototxt text, held against CaffeNet's shape and turned into the keys of a Config.

What a text asks for and CaffeNet hasn't is refused by its layer's name: nothing is ignored.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from stylefinetune.caffe.schema import enum_name, message_class
from stylefinetune.errors import UserError

# CaffeNet's trunk: each layer's type, its name where it has weights, and what its parameters must be.
_POOL = {"pool": 0, "kernel_size": 3, "stride": 2}
_LRN = {"local_size": 5, "alpha": 1e-4, "beta": 0.75}
_TRUNK: tuple[tuple[str, str, Mapping[str, float]], ...] = (
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
# Read below, or without effect on what is computed.
_FREE = {"num_output", "weight_filler", "bias_filler", "dropout_ratio", "engine"}
_FREE_DATA = {"source", "batch_size", "shuffle", "new_height", "new_width", "root_folder"}


@dataclasses.dataclass(frozen=True)
class ImageList:
    """An ImageData layer's pictures.

    Attributes:
        source: the list file, `path label` on each line.
        root_folder: put before each path as it is.
    """

    source: str
    root_folder: str


@dataclasses.dataclass(frozen=True)
class NetText:
    """What a net's text says.

    Attributes:
        keys: of a Config: its sections data, model and optim.
        num_classes: outputs of the last layer.
        train: the pictures to train on.
        test: those to test on, if any.
    """

    keys: dict[str, dict[str, Any]]
    num_classes: int
    train: ImageList
    test: ImageList | None


def parse_text(path: Path, kind: str) -> Any:  # noqa: ANN401 -- a message class made at run time
    """Parses a prototxt file as a message of `kind`.

    Raises:
        UserError: it can't be read, or isn't one; with the line where it fails.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message_class(kind)())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{path}:{' '.join(str(error).split())}") from error


def read_net(path: Path) -> NetText:
    """Reads a train_val.prototxt.

    Raises:
        UserError: it can't be read, or isn't of CaffeNet's shape; the message names the layer.
    """
    net = parse_text(path, "NetParameter")
    refuse_unless_default(net, str(path), free={"name", "layer", "force_backward"})
    phases = {phase: [layer for layer in net.layer if _is_in(layer, phase, path)] for phase in ("TRAIN", "TEST")}
    train = _read_data(phases["TRAIN"], "TRAIN", path)
    assert train is not None
    test = _read_data(phases["TEST"], "TEST", path)
    trunk = [_match_trunk(phases[phase], path) for phase, data in (("TRAIN", train), ("TEST", test)) if data]
    data: dict[str, Any] = {**train.keys, "test": {**test.keys, "split": "test"} if test else {"split": ""}}
    learned = [layer for layer in trunk[0] if layer.type in {"Convolution", "InnerProduct"}]
    parameters = [getattr(layer, _PARAM[layer.type]) for layer in learned]
    outputs = [parameter.num_output for parameter in parameters]
    model = {
        "name": net.name or "CaffeNet",
        "last_layer": learned[-1].name,
        "widths": outputs[:-1],
        "weight_filler_std": [_weight_std(layer, path) for layer in learned],
        "bias_filler_value": [_bias_value(layer, path) for layer in learned],
        "dropout": _dropout(trunk[0], path),
    }
    optim = {"layers": [_layer_rule(layer, path) for layer in learned]}
    return NetText({"data": data, "model": model, "optim": optim}, outputs[-1], train.pictures, test and test.pictures)


@dataclasses.dataclass(frozen=True)
class _Data:
    """An ImageData layer: its pictures, and its keys of the section data."""

    pictures: ImageList
    keys: dict[str, Any]


def _is_in(layer: Any, phase: str, path: Path) -> bool:  # noqa: ANN401
    """Tells whether a layer is of a phase; stages and levels, which nobody sets here, are refused."""
    if layer.exclude:
        raise UserError(f"{path}: layer {layer.name}: exclude isn't supported; use include")
    for rule in layer.include:
        for field, _ in rule.ListFields():
            if field.name != "phase":
                raise UserError(f"{path}: layer {layer.name}: include.{field.name} isn't supported")
    return not layer.include or any(enum_name(rule, "phase") == phase for rule in layer.include)


def _read_data(layers: list[Any], phase: str, path: Path) -> _Data | None:
    """Reads the phase's ImageData layer; None where testing has none."""
    found = [layer for layer in layers if not layer.bottom]
    if not found and phase == "TEST":
        return None
    if len(found) != 1 or found[0].type != "ImageData":
        named = ", ".join(f"{layer.name} ({layer.type})" for layer in found) or "none"
        raise UserError(f"{path}: {phase} wants one ImageData layer for its pictures; it has: {named}")
    (layer,) = found
    where = f"{path}: layer {layer.name} ({phase})"
    refuse_unless_default(layer, where, free={*_COMMON, "image_data_param", "transform_param"})
    refuse_unless_default(layer.image_data_param, f"{where}: image_data_param", free=_FREE_DATA)
    transform, images = layer.transform_param, layer.image_data_param
    mean = {"scale", "mirror", "crop_size", "mean_file", "mean_value"}
    refuse_unless_default(transform, f"{where}: transform_param", free=mean)
    if not images.source:
        raise UserError(f"{where}: image_data_param has no source")
    if bool(images.new_height) != bool(images.new_width):
        raise UserError(f"{where}: new_height and new_width go together; give both or neither")
    keys = {
        "batch_size": images.batch_size,
        "image_size": [images.new_height, images.new_width] if images.new_height else 0,
        "crop_size": transform.crop_size,
        "mirror": transform.mirror,
        "shuffle": images.shuffle,
        "scale": as_written(transform.scale),
        "mean_file": transform.mean_file,
        # With neither a file nor values, Caffe subtracts nothing.
        "mean_value": [as_written(v) for v in transform.mean_value] or ([] if transform.mean_file else [0.0]),
    }
    return _Data(ImageList(images.source, images.root_folder), keys)


def _match_trunk(layers: list[Any], path: Path) -> list[Any]:
    """Returns a phase's layers from conv1 to the last, having held each against CaffeNet's."""
    rest = (layer for layer in layers if layer.bottom)
    matched: list[Any] = []
    layer = next(rest, None)
    blob = "data"
    for kind, name, required in _TRUNK:
        if kind == "Dropout" and (layer is None or layer.type != "Dropout"):
            continue  # a net without dropout has CaffeNet's shape all the same
        if layer is None or layer.type != kind or (name and layer.name != name):
            found = "the net ends" if layer is None else f"it is layer {layer.name} ({layer.type})"
            raise UserError(f"{path}: CaffeNet has {kind} {name or 'next'} after {blob}, and here {found}")
        where = f"{path}: layer {layer.name}"
        refuse_unless_default(layer, where, free={*_COMMON, _PARAM[kind]})
        parameters = getattr(layer, _PARAM[kind])
        refuse_unless_default(parameters, f"{where}: {_PARAM[kind]}", required=required, free=_FREE)
        if list(layer.bottom) != [blob] or len(layer.top) != 1:
            raise UserError(f"{where}: its bottom is {', '.join(layer.bottom)}, where CaffeNet goes on from {blob}")
        matched.append(layer)
        blob = layer.top[0]
        layer = next(rest, None)
    _check_ends(layer, rest, blob, path)
    return matched


def _check_ends(layer: Any | None, rest: Iterator[Any], blob: str, path: Path) -> None:  # noqa: ANN401
    """Sees that nothing but a loss and an accuracy stand behind the last layer."""
    while layer is not None:
        where = f"{path}: layer {layer.name}"
        if layer.type not in {"SoftmaxWithLoss", "Accuracy"}:
            raise UserError(f"{where}: a layer of type {layer.type} isn't supported here")
        refuse_unless_default(layer, where, free={*_COMMON, _PARAM[layer.type]})
        refuse_unless_default(getattr(layer, _PARAM[layer.type]), f"{where}: {_PARAM[layer.type]}")
        if list(layer.bottom) != [blob, "label"]:
            raise UserError(f"{where}: its bottoms are {', '.join(layer.bottom)}, where {blob}, label are supported")
        layer = next(rest, None)


def refuse_unless_default(
    message: Message, where: str, free: set[str] | None = None, required: Mapping[str, float] | None = None
) -> None:
    """Refuses any field whose value isn't what `required` says or, where it says nothing, Caffe's default.

    Args:
        message: of any kind.
        where: begins the error: file, layer, parameter.
        free: fields that may have any value.
        required: values that fields must have, in place of their defaults.

    Raises:
        UserError: it names the field and its value.
    """
    for field in message.DESCRIPTOR.fields:
        if field.name in (free or set()):
            continue
        value: Any = getattr(message, field.name)
        wanted: Any = (required or {}).get(field.name)
        if field.is_repeated:  # convolution's sizes are lists: one for all axes, or one for each
            same = list(value) in ([], [0], [0, 0]) if wanted is None else list(value) in ([wanted], [wanted, wanted])
            if field.name in {"stride", "dilation"} and wanted is None:
                same = list(value) in ([], [1], [1, 1])
        elif field.message_type is not None:
            same = not message.HasField(field.name)
        else:
            same = math.isclose(value, wanted, rel_tol=1e-6) if wanted is not None else value == field.default_value
        if not same:
            shown = " ".join((", ".join(map(str, value)) if field.is_repeated else str(value)).split())
            only = "" if wanted is None else f"; CaffeNet has {wanted}"
            raise UserError(f"{where}: {field.name} {shown[:60]} isn't supported{only}")


def _weight_std(layer: Any, path: Path) -> float:  # noqa: ANN401
    filler = getattr(layer, _PARAM[layer.type]).weight_filler
    if filler.type == "constant" and filler.value == 0:
        return 0.0
    if filler.type != "gaussian" or filler.mean or filler.sparse != -1:
        raise UserError(f"{path}: layer {layer.name}: a weight_filler other than gaussian isn't supported")
    return as_written(filler.std)


def _bias_value(layer: Any, path: Path) -> float:  # noqa: ANN401
    filler = getattr(layer, _PARAM[layer.type]).bias_filler
    if filler.type != "constant":
        raise UserError(f"{path}: layer {layer.name}: a bias_filler other than constant isn't supported")
    return as_written(filler.value)


def _dropout(trunk: list[Any], path: Path) -> float:
    layers = [layer for layer in trunk if layer.type == "Dropout"]
    ratios = {layer.dropout_param.dropout_ratio for layer in layers}
    if len(layers) not in {0, 2} or len(ratios) > 1:
        names = ", ".join(layer.name for layer in layers)
        raise UserError(f"{path}: layers {names}: dropout of one ratio after both fc6 and fc7, or none, is supported")
    return as_written(ratios.pop()) if ratios else 0.0


def _layer_rule(layer: Any, path: Path) -> dict[str, Any]:  # noqa: ANN401
    specs = [*layer.param, message_class("ParamSpec")(), message_class("ParamSpec")()][:2]
    for spec in specs:
        refuse_unless_default(spec, f"{path}: layer {layer.name}: param", free={"lr_mult", "decay_mult"})
    if len(layer.param) > 2:
        raise UserError(f"{path}: layer {layer.name}: it has {len(layer.param)} params, for two blobs")
    weight, bias = specs
    return {
        "match": layer.name,
        "lr_mult": as_written(weight.lr_mult),
        "decay_mult": as_written(weight.decay_mult),
        "bias_lr_mult": as_written(bias.lr_mult),
        "bias_decay_mult": as_written(bias.decay_mult),
    }


def as_written(value: float) -> float:
    """Returns the number that the text had: protobuf's float field made a float32 of it."""
    return float(f"{value:.7g}")
