"""The stored form of a net: one prototxt with the layers of both phases, without data layers."""

import difflib
from glob import escape
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from stylefinetune.caffe.graph.kinds import KINDS, parameters_of
from stylefinetune.caffe.graph.read import Graph, read_graph
from stylefinetune.caffe.layers import Layer, Net
from stylefinetune.caffe.prototxt import check_defaults, parse_content, round_float32
from stylefinetune.caffe.schema import message_class
from stylefinetune.config.schema import BatchNormMode

STORED = Path("model.prototxt")  # the "file" of a stored net in messages
_NET_FIELDS = {"name", "layer", "layers", "force_backward", "debug_info", "state", "input"}


def read_stored(text: str, phase: str) -> Graph:
    """Read a phase of a net that `store_graph` wrote.

    Raises:
        UserError: it is not such a net.
    """
    message, place = parse_content(text, STORED, "NetParameter")
    check_defaults(message, place, free=_NET_FIELDS)
    if not 1 <= len(message.input) <= 2:
        raise place.error("it needs `input` with the name of the pictures' blob, and then that of the labels")
    labels = message.input[1] if len(message.input) == 2 else None
    return read_graph(Net(message, place).layers(phase, None), message.input[0], labels, phase, place)


def store_graph(name: str, train: list[Layer], test: list[Layer] | None, blobs: tuple[str, ...]) -> str:
    """Return one prototxt with the layers of both phases, without their data layers.

    `blobs` are those of the pictures and of the labels; a deploy net has no labels.
    """
    net = message_class("NetParameter")(name=name, input=blobs)
    ours, theirs = ([_plain(layer) for layer in layers] for layers in (train, train if test is None else test))
    texts = [[one.SerializeToString() for one in side] for side in (ours, theirs)]
    changes = difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    for tag, start, stop, other_start, other_stop in changes:
        shared = tag == "equal"
        for phase, kept in ((0, ours[start:stop]), (1, [] if shared else theirs[other_start:other_stop])):
            for message in kept:
                added = net.layer.add()
                added.CopyFrom(message)
                if not shared:
                    added.include.add(phase=phase)
    return text_format.MessageToString(net)


def check_phases(train: Graph, test: Graph) -> None:
    """Check that the layers with weights or statistics of the test net are in the training net: Caffe shares them.

    Raises:
        UserError: one is not, or has other settings there.
    """
    trained = {layer.message.name: layer for layer in train.layers}
    for layer in filter(has_weights, test.layers):
        other = trained.get(layer.message.name)
        if other is None:
            raise layer.place.error("the training net has no layer of this name, so its weights aren't trained", "name")
        if settings_of(layer) != settings_of(other):
            raise layer.place.error("it has the weights of the training net's layer of this name, but other settings")


def has_weights(layer: Layer) -> bool:
    """Return whether a layer has learned blobs or statistics."""
    return KINDS[layer.message.type].blobs > 0 or layer.message.type == "BatchNorm"


def settings_of(layer: Layer) -> Any:  # noqa: ANN401
    """Return the type and the parameters of a layer, without fields that matter in training only."""
    message = message_class("LayerParameter")(type=layer.message.type)
    parameters = getattr(message, KINDS[message.type].parameters)
    parameters.CopyFrom(parameters_of(layer))
    for field in ("weight_filler", "bias_filler", "filler", "use_global_stats"):
        if field in parameters.DESCRIPTOR.fields_by_name:
            parameters.ClearField(field)
    return message


def graph_rules(graph: Graph) -> list[dict[str, Any]]:
    """Return optim.layers of a Config: the multipliers of each layer with learned blobs.

    Raises:
        UserError: a layer has more `param` than blobs.
    """
    return [_layer_rule(layer, _learned_blobs(layer)) for layer in graph.learned]


def batch_norm_mode(graph: Graph) -> BatchNormMode | None:
    """Return model.batch_norm for the training phase: that of the layers without use_global_stats, if there are any."""
    layers = [layer for layer in graph.layers if layer.message.type == "BatchNorm"]
    if not layers:
        return None
    return "eval" if all(parameters_of(layer).use_global_stats for layer in layers) else "train"


def _learned_blobs(layer: Layer) -> int:
    has_bias = getattr(parameters_of(layer), "bias_term", True)
    return KINDS[layer.message.type].blobs - (not has_bias)


def _plain(layer: Layer) -> Any:  # noqa: ANN401
    message = message_class("LayerParameter")()
    message.CopyFrom(layer.message)
    for field in ("include", "exclude", "phase"):
        message.ClearField(field)
    return message


def _layer_rule(layer: Layer, blobs: int) -> dict[str, Any]:
    specs = list(layer.message.param)
    if len(specs) > blobs:
        raise layer.place.error(f"it has {len(specs)} params, but {_count(blobs)}", "param", blobs)
    weight, bias = [*specs, message_class("ParamSpec")(), message_class("ParamSpec")()][:2]
    mults = {"lr_mult": weight.lr_mult, "decay_mult": weight.decay_mult}
    mults |= {"bias_lr_mult": bias.lr_mult, "bias_decay_mult": bias.decay_mult}
    return {"match": escape(layer.message.name), **{name: round_float32(value) for name, value in mults.items()}}


def _count(blobs: int) -> str:
    return {1: "one blob", 2: "two blobs"}[blobs]
