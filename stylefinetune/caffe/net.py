"""Reads the nets of a solver: the data layers of both phases, and the network between data and loss."""

import dataclasses
from pathlib import Path
from typing import Any

from stylefinetune.caffe.graph.read import Graph, read_graph
from stylefinetune.caffe.graph.store import batch_norm_mode, check_phases, graph_rules, store_graph
from stylefinetune.caffe.layers import Layer, Net
from stylefinetune.caffe.prototxt import Place, check_defaults, parse_text, round_float32
from stylefinetune.caffe.schema import enum_name
from stylefinetune.caffe.structure import caffenet_keys
from stylefinetune.config.data import DataConfig, TestDataConfig
from stylefinetune.config.schema import CAFFE_GRAPH, ModelConfig

_IMAGE_FIELDS = {"source", "batch_size", "shuffle", "new_height", "new_width", "root_folder"}
_DATABASE_FIELDS = {"source", "batch_size", "backend", "prefetch", "force_encoded_color"}
_TRANSFORMATIONS = {"scale", "mirror", "crop_size", "mean_file", "mean_value", "force_color"}
_REMEDY = "use an ImageData layer, whose source is a list of picture files and labels"


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The list file of an ImageData layer, or the database of a Data layer."""

    source: str  # a file of `path label` lines, or the folder of an LMDB database
    root_folder: str = ""  # prefix of each path
    is_database: bool = False


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


@dataclasses.dataclass(frozen=True)
class _Phase:
    """A net in training or in testing."""

    net: Net
    layers: list[Layer]  # without the data layer
    data: _Data
    name: str  # TRAIN or TEST


@dataclasses.dataclass(frozen=True)
class _Model:
    """The converted network between data and loss."""

    keys: dict[str, Any]  # of section model
    rules: list[dict[str, Any]]  # optim.layers
    last_layer: str
    num_classes: int  # outputs of the last layer


def read_net(path: Path) -> Net:
    """Read a net's prototxt.

    Raises:
        UserError: it can't be read.
    """
    return Net(*parse_text(path, "NetParameter"))


def convert_nets(train: Net, test: Net | None, solver: Any = None) -> NetConfig:  # noqa: ANN401 -- see parse_text
    """Convert the nets of training and of testing, which may be the same.

    Raises:
        UserError: a net has an unsupported layer or setting; the message names its file, line and layer.
    """
    states = (solver.train_state, solver.test_state[0] if solver.test_state else None) if solver else (None, None)
    layers = train.layers("TRAIN", states[0])
    data = _find_data(layers, "TRAIN", train.place)
    assert data is not None
    phases = [_Phase(train, _hidden(train, layers), data, "TRAIN")]
    if test is not None:
        layers = test.layers("TEST", states[1])
        tested = _find_data(layers, "TEST", test.place)
        phases += [_Phase(test, _hidden(test, layers), tested, "TEST")] if tested else []
    tested = phases[1].data if len(phases) > 1 else None
    model = _convert_network(phases)
    test_keys: dict[str, Any] = {**tested.keys, "split": "test"} if tested else {"split": ""}
    keys: dict[str, dict[str, Any]] = {
        "data": {**data.keys, "test": test_keys},
        "model": model.keys,
        "optim": {"layers": model.rules},
    }
    try:
        ModelConfig(**model.keys)
        DataConfig(**data.keys, test=TestDataConfig(**test_keys))
    except ValueError as error:
        raise train.place.error(str(error)) from error
    return NetConfig(keys, model.last_layer, model.num_classes, data.pictures, tested.pictures if tested else None)


def _hidden(net: Net, layers: list[Layer]) -> list[Layer]:
    check_defaults(net.message, net.place, free={"name", "layer", "layers", "force_backward", "debug_info", "state"})
    return [layer for layer in layers if layer.message.bottom]


def _convert_network(phases: list[_Phase]) -> _Model:
    """Convert the layers between data and loss: to CaffeNet if they have its structure, otherwise to a Caffe net."""
    graphs = [read_graph(one.layers, *one.data.blobs, one.name, one.net.place) for one in phases]
    train, rules = graphs[0], graph_rules(graphs[0])
    for graph in graphs[1:]:
        check_phases(train, graph)
    name = phases[0].net.message.name
    found = [caffenet_keys(graph) for graph in graphs]
    if found[0] is not None and None not in found:
        keys = {"display_name": name or "CaffeNet", **found[0]}
    else:
        keys = _graph_keys(name or "Caffe net", phases, train)
    return _Model(keys, rules, train.classifier.message.name, train.num_classes)


def _graph_keys(name: str, phases: list[_Phase], train: Graph) -> dict[str, Any]:
    """Return the section `model` of a Config for any net of Caffe layers."""
    blobs = phases[0].data.blobs
    for one in phases[1:]:
        if one.data.blobs != blobs:
            raise one.net.place.error(f"the tops of its data layer must be {' and '.join(blobs)}, as in training")
    tested = phases[1].layers if len(phases) > 1 else None
    keys = {"arch": CAFFE_GRAPH, "display_name": name, "prototxt": store_graph(name, phases[0].layers, tested, blobs)}
    mode = batch_norm_mode(train)
    return {**keys, "batch_norm": mode} if mode else keys


def _find_data(layers: list[Layer], phase: str, place: Place) -> _Data | None:
    """Return the data layer of a phase; None if there is none for testing."""
    found = [layer for layer in layers if not layer.message.bottom]
    if not found and phase == "TEST":
        return None
    for layer in found:
        if layer.message.type not in ("ImageData", "Data"):
            kind = layer.message.type
            raise layer.place.error(f"a data layer of type {kind} isn't supported; {_REMEDY}", "type")
    if len(found) != 1:
        names = ", ".join(layer.message.name for layer in found) or "none"
        raise place.error(f"phase {phase} needs one ImageData or Data layer; it has: {names}")
    return _read_data(found[0]) if found[0].message.type == "ImageData" else _read_database(found[0])


def _read_data(layer: Layer) -> _Data:
    images, place = layer.message.image_data_param, layer.place_of("image_data_param")
    check_defaults(images, place, free=_IMAGE_FIELDS)
    if not images.source:
        raise place.error("source is missing")
    if bool(images.new_height) != bool(images.new_width):
        raise place.error("set both new_height and new_width, or neither", "new_height")
    keys = {
        "batch_size": images.batch_size,
        "image_size": [images.new_height, images.new_width] if images.new_height else 0,
        "shuffle": images.shuffle,
        **_transformations(layer),
    }
    return _Data(ImageList(images.source, images.root_folder), keys, _tops(layer))


def _read_database(layer: Layer) -> _Data:
    database, place = layer.message.data_param, layer.place_of("data_param")
    check_defaults(database, place, free=_DATABASE_FIELDS)
    if not database.source:
        raise place.error("source is missing")
    if enum_name(database, "backend") != "LMDB":
        raise place.error(f"the backend of {database.source} is LEVELDB; only LMDB is supported", "backend")
    keys = {"batch_size": database.batch_size, "image_size": 0, "shuffle": False, **_transformations(layer)}
    return _Data(ImageList(database.source, is_database=True), keys, _tops(layer))


def _tops(layer: Layer) -> tuple[str, str]:
    tops = layer.message.top
    if len(tops) != 2:
        raise layer.place.error(f"it has {len(tops)} tops; the pictures and the labels are needed", "top")
    return tops[0], tops[1]


def _transformations(layer: Layer) -> dict[str, Any]:
    """Return the keys of section data that a layer's transform_param sets."""
    transform, place = layer.message.transform_param, layer.place_of("transform_param")
    check_defaults(transform, place, free=_TRANSFORMATIONS)
    if transform.mean_file and transform.mean_value:
        raise place.error("mean_file and mean_value are both set; Caffe accepts one")
    return {
        "crop_size": transform.crop_size,
        "mirror": transform.mirror,
        "scale": round_float32(transform.scale),
        "mean_file": transform.mean_file,
        # Without a file and values, Caffe subtracts nothing.
        "mean_value": [round_float32(v) for v in transform.mean_value] or ([] if transform.mean_file else [0.0]),
    }
