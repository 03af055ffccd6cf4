"""Reads the nets of a solver: the data layers of both phases, and the network between data and loss."""

import dataclasses
from pathlib import Path
from typing import Any

from stylefinetune.caffe.layers import Layer, Net
from stylefinetune.caffe.prototxt import Place, check_defaults, parse_text, round_float32
from stylefinetune.caffe.structure import Network, layer_rules, match_caffenet, model_keys
from stylefinetune.config.data import DataConfig, TestDataConfig
from stylefinetune.config.schema import ModelConfig

_DATA_FIELDS = {"source", "batch_size", "shuffle", "new_height", "new_width", "root_folder"}
_TRANSFORMATIONS = {"scale", "mirror", "crop_size", "mean_file", "mean_value", "force_color"}
_LISTED = "use an ImageData layer, whose source is a list of picture files and labels"
_REMEDIES = {  # for other data layers
    "Data": "use an ImageData layer; its source is the list of pictures that convert_imageset made the database from, "
    "and its root_folder the ROOTFOLDER of that command",
    "HDF5Data": _LISTED,
    "WindowData": _LISTED,
}


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The list file of an ImageData layer."""

    source: str  # a file of `path label` lines
    root_folder: str  # prefix of each path


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """The nets, converted."""

    keys: dict[str, dict[str, Any]]  # sections data, model and optim of a Config
    last_layer: str
    num_classes: int  # outputs of the last layer
    train: ImageList
    test: ImageList | None


@dataclasses.dataclass(frozen=True)
class _Data:
    """The data layer of a phase."""

    pictures: ImageList
    keys: dict[str, Any]  # of section data
    blobs: tuple[str, str]  # the pictures' and the labels'


def read_net(path: Path) -> Net:
    """Read a net's prototxt.

    Raises:
        UserError: it can't be read.
    """
    return Net(*parse_text(path, "NetParameter"))


def convert_nets(train: Net, test: Net | None, solver: Any = None) -> NetConfig:  # noqa: ANN401 -- see parse_text
    """Convert the nets of training and of testing, which may be the same.

    Raises:
        UserError: a net differs from CaffeNet; the message names its file, line and layer.
    """
    states = (solver.train_state, solver.test_state[0] if solver.test_state else None) if solver else (None, None)
    layers = train.layers("TRAIN", states[0])
    data = _find_data(layers, "TRAIN", train.place)
    assert data is not None
    network = _read_network(train, layers, data, "TRAIN")
    tested = None
    if test is not None:
        layers = test.layers("TEST", states[1])
        tested = _find_data(layers, "TEST", test.place)
        if tested:
            _check_equal(network, _read_network(test, layers, tested, "TEST"), test.place)
    model: dict[str, Any] = {"display_name": train.message.name or "CaffeNet", **model_keys(network)}
    test_keys: dict[str, Any] = {**tested.keys, "split": "test"} if tested else {"split": ""}
    keys: dict[str, dict[str, Any]] = {
        "data": {**data.keys, "test": test_keys},
        "model": model,
        "optim": {"layers": layer_rules(network)},
    }
    try:
        ModelConfig(**model)
        DataConfig(**data.keys, test=TestDataConfig(**test_keys))
    except ValueError as error:
        raise train.place.error(str(error)) from error
    return NetConfig(keys, *network.outputs[-1], data.pictures, tested.pictures if tested else None)


def _read_network(net: Net, layers: list[Layer], data: _Data, phase: str) -> Network:
    check_defaults(net.message, net.place, free={"name", "layer", "layers", "force_backward", "debug_info", "state"})
    hidden = [layer for layer in layers if layer.message.bottom]
    return match_caffenet(hidden, *data.blobs, phase, net.place)


def _check_equal(train: Network, test: Network, place: Place) -> None:
    """Check that the network of the tests has the trained layers: Caffe shares them by name."""
    for ours, theirs in zip(train.outputs, test.outputs, strict=True):
        if ours != theirs:
            found, expected = ("{} with {} outputs".format(*layer) for layer in (theirs, ours))
            raise place.error(f"the test net has the layer {found}; the training net has {expected}")


def _find_data(layers: list[Layer], phase: str, place: Place) -> _Data | None:
    """Return the data layer of a phase; None if there is none for testing."""
    found = [layer for layer in layers if not layer.message.bottom]
    if not found and phase == "TEST":
        return None
    for layer in found:
        kind, source = layer.message.type, layer.message.data_param.source
        if kind != "ImageData":
            database = f" (of {source})" if source else ""
            remedy = _REMEDIES.get(kind, _LISTED)
            raise layer.place.error(f"a data layer of type {kind}{database} isn't supported; {remedy}", "type")
    if len(found) != 1:
        names = ", ".join(layer.message.name for layer in found) or "none"
        raise place.error(f"phase {phase} needs one ImageData layer; it has: {names}")
    return _read_data(found[0])


def _read_data(layer: Layer) -> _Data:
    message, transform, images = layer.message, layer.message.transform_param, layer.message.image_data_param
    place = layer.place_of("image_data_param")
    check_defaults(images, place, free=_DATA_FIELDS)
    check_defaults(transform, layer.place_of("transform_param"), free=_TRANSFORMATIONS)
    if not images.source:
        raise place.error("source is missing")
    if bool(images.new_height) != bool(images.new_width):
        raise place.error("set both new_height and new_width, or neither", "new_height")
    if len(message.top) != 2:
        raise layer.place.error(f"it has {len(message.top)} tops; the pictures and the labels are needed", "top")
    if transform.mean_file and transform.mean_value:
        raise layer.place_of("transform_param").error("mean_file and mean_value are both set; Caffe accepts one")
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
    return _Data(ImageList(images.source, images.root_folder), keys, (message.top[0], message.top[1]))
