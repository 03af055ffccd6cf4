"""Reads and checks the layers of a phase.

Layers are connected by their blobs' names, in the order of the file, as in Caffe. Nothing that changes a result is
ignored: an unsupported layer or setting is an error that names the file, line and layer.
"""

import collections
import dataclasses

from stylefinetune.caffe.graph.kinds import KINDS, STATISTICS, parameters_of
from stylefinetune.caffe.layers import Layer
from stylefinetune.caffe.prototxt import Place, check_defaults, round_float32
from stylefinetune.caffe.schema import enum_name

_ENDS = ("SoftmaxWithLoss", "Accuracy", "Softmax", "Silence")  # may follow the scores of the classes
_NORMALIZED = {"FULL", "VALID", "BATCH_SIZE"}  # equal for one label a picture, unless it is ignored


@dataclasses.dataclass(frozen=True)
class Scores:
    """A blob with the scores of the classes, from which a loss is computed."""

    blob: str
    weight: float  # of its loss


@dataclasses.dataclass(frozen=True)
class Graph:
    """The layers of a phase on which the scores of the classes depend, in order."""

    layers: list[Layer]
    pictures: str  # the blob of the pictures
    scores: list[Scores]  # the main ones last; the others are auxiliary, of training only

    @property
    def learned(self) -> list[Layer]:
        """The layers with learned blobs."""
        return [layer for layer in self.layers if KINDS[layer.message.type].blobs]

    @property
    def classifier(self) -> Layer:
        """The last Convolution or InnerProduct layer on which the main scores depend."""
        needed = _needed(self.layers, {self.scores[-1].blob})
        return next(layer for layer in reversed(needed) if "num_output" in KINDS[layer.message.type].free)

    @property
    def num_classes(self) -> int:
        """The number of outputs of the classifier."""
        return parameters_of(self.classifier).num_output


def read_graph(layers: list[Layer], pictures: str, labels: str | None, phase: str, place: Place) -> Graph:
    """Check the layers of a phase, TRAIN or TEST, without its data layer, and find the scores of the classes.

    In training they are the bottoms of the SoftmaxWithLoss layers; the last of these layers has the main ones. In
    testing, and in a deploy net, which has no labels, they are the bottom of the last loss, accuracy or softmax, or the
    last blob if there is none of them.

    Raises:
        UserError: a layer is not supported, or the layers do not fit together.
    """
    blobs = {pictures}
    hidden: list[Layer] = []
    ends: list[Layer] = []
    names: set[str] = set()
    for layer in layers:
        message = layer.message
        if message.type in _ENDS and (message.type != "Softmax" or not _is_read(layer, layers)):
            _check_end(layer, labels, blobs, phase)
            ends.append(layer)
            continue
        _check_layer(layer, blobs, pictures, phase)
        _check_top(layer, blobs, ends)
        if message.name in names:
            raise layer.place.error("another layer has the same name", "name")
        names.add(message.name)
        blobs.add(message.top[0])
        hidden.append(layer)
    _check_shared_names([layer for layer in hidden if KINDS[layer.message.type].blobs])
    scores = _find_losses(ends, place) if phase == "TRAIN" and labels else _find_output(ends, hidden, place)
    graph = Graph(_needed(hidden, {one.blob for one in scores}), pictures, scores)
    if not any("num_output" in KINDS[layer.message.type].free for layer in graph.layers):
        raise place.error("no Convolution or InnerProduct layer is between the pictures and the scores")
    for layer in ends:
        _check_end_parameters(layer, graph.num_classes)
    return graph


def _is_read(layer: Layer, layers: list[Layer]) -> bool:
    """Return whether a later layer reads the output of one."""
    after = layers[layers.index(layer) + 1 :]
    return any(set(layer.message.top) & set(other.message.bottom) for other in after)


def _check_layer(layer: Layer, blobs: set[str], pictures: str, phase: str) -> None:
    """Check a layer between the pictures and the scores."""
    message, kind = layer.message, KINDS.get(layer.message.type)
    if kind is None:
        raise layer.place.error(f"a layer of type {message.type} isn't supported", "type")
    if kind.bottoms and len(message.bottom) != kind.bottoms:
        raise layer.place.error(f"it has {len(message.bottom)} bottoms; {kind.bottoms} is supported", "bottom")
    if len(message.top) != 1:
        raise layer.place.error(f"it has {len(message.top)} tops; 1 is supported", "top")
    for index, bottom in enumerate(message.bottom):
        if bottom not in blobs:
            raise layer.place.error(f"its bottom {bottom} is no top of an earlier layer", "bottom", index)
    _check_common(layer, loss_weight=0.0, phase=phase)
    if any(not flag for flag in message.propagate_down) and set(message.bottom) != {pictures}:
        raise layer.place.error("propagate_down: false isn't supported; use lr_mult: 0 below it", "propagate_down")
    parameters, place = parameters_of(layer), layer.place_of(kind.parameters)
    check_defaults(parameters, place, free=kind.free)
    if "num_output" in kind.free and parameters.num_output < 1:
        raise place.error("num_output is missing")
    if message.type == "BatchNorm":
        _check_statistics(layer, phase)


def _check_top(layer: Layer, blobs: set[str], ends: list[Layer]) -> None:
    """Check that no other layer has the same top, except in place, and that no loss has read it before."""
    top = layer.message.top[0]
    if top in blobs and top not in layer.message.bottom:
        raise layer.place.error(f"its top {top} is also that of another layer", "top")
    reader = next((end for end in ends if top in end.message.bottom), None)
    if reader is not None:
        raise layer.place.error(f"it changes {top} in place after {reader.message.name} has read it", "top")


def _check_statistics(layer: Layer, phase: str) -> None:
    parameters, place = parameters_of(layer), layer.place_of("batch_norm_param")
    if phase == "TEST" and parameters.HasField("use_global_stats") and not parameters.use_global_stats:
        raise place.error(
            "use_global_stats: false isn't supported in testing; without this field, Caffe uses the statistics of the "
            "batch in training only",
            "use_global_stats",
        )
    for index, spec in enumerate(layer.message.param):
        if index >= STATISTICS or (spec.HasField("lr_mult") and spec.lr_mult != 0):
            raise layer.place.error("its statistics aren't learned: set lr_mult: 0 in 3 params or none", "param", index)


def _check_end(layer: Layer, labels: str | None, blobs: set[str], phase: str) -> None:
    """Check a loss, an accuracy or a layer without effect."""
    message = layer.message
    _check_common(layer, loss_weight=None if message.type == "SoftmaxWithLoss" else 0.0, phase=phase)
    if message.type == "Silence":
        return
    expected = 1 if message.type == "Softmax" else 2
    found = ", ".join(message.bottom) or "none"
    is_scored = len(message.bottom) == expected and message.bottom[0] in blobs
    if not is_scored or list(message.bottom[1:]) != [labels][: expected - 1]:
        wanted = "the scores" if expected == 1 else f"the scores and {labels or 'the labels'}"
        raise layer.place.error(f"its bottoms are {found}; {wanted} are needed", "bottom")


def _check_end_parameters(layer: Layer, classes: int) -> None:
    match layer.message.type:
        case "SoftmaxWithLoss":
            _check_softmax_loss(layer, classes)
        case "Accuracy":
            _check_accuracy(layer, classes)
        case "Softmax":
            check_defaults(layer.message.softmax_param, layer.place_of("softmax_param"), free={"engine"})
        case _:
            pass


def _find_losses(ends: list[Layer], place: Place) -> list[Scores]:
    losses = [layer for layer in ends if layer.message.type == "SoftmaxWithLoss" and _loss_weight(layer)]
    if not losses:
        raise place.error("no SoftmaxWithLoss layer with a loss_weight other than 0 is in training")
    return [Scores(one.message.bottom[0], _loss_weight(one)) for one in losses]


def _find_output(ends: list[Layer], hidden: list[Layer], place: Place) -> list[Scores]:
    losses = [layer for layer in ends if layer.message.type == "SoftmaxWithLoss"]
    scoring = losses or [layer for layer in ends if layer.message.type in ("Accuracy", "Softmax")]
    if not scoring and not hidden:
        raise place.error("it has no layers")
    return [Scores(scoring[-1].message.bottom[0] if scoring else hidden[-1].message.top[0], 1.0)]


def _loss_weight(layer: Layer) -> float:
    weights = list(layer.message.loss_weight)
    return round_float32(weights[0]) if weights else 1.0


def _needed(layers: list[Layer], blobs: set[str]) -> list[Layer]:
    """Return the layers on which the blobs depend at the end, in order."""
    wanted = set(blobs)
    kept: list[Layer] = []
    for layer in reversed(layers):
        if layer.message.top[0] in wanted:
            wanted.discard(layer.message.top[0])
            wanted.update(layer.message.bottom)
            kept.append(layer)
    return kept[::-1]


def _check_common(layer: Layer, loss_weight: float | None, phase: str) -> None:
    """Check the fields that layers of all types have; `loss_weight` None accepts any for the first top."""
    message = layer.message
    if message.blobs:
        raise layer.place.error("blobs aren't supported; give weights with --weights", "blobs")
    if message.HasField("phase") and enum_name(message, "phase") != phase:
        raise layer.place.error(
            f"phase isn't supported; use include {{ phase: {enum_name(message, 'phase')} }}", "phase"
        )
    for index, weight in enumerate(message.loss_weight):
        expected = loss_weight if index == 0 else 0.0
        if expected is not None and weight != expected:
            raise layer.place.error(f"loss_weight {weight:g} isn't supported; it must be {expected:g}", "loss_weight")


def _check_accuracy(layer: Layer, classes: int) -> None:
    """Check the parameters of an Accuracy layer."""
    parameters = layer.message.accuracy_param
    check_defaults(parameters, layer.place_of("accuracy_param"), free={"top_k", "ignore_label"})
    _check_ignored(layer, "accuracy_param", classes)


def _check_softmax_loss(layer: Layer, classes: int) -> None:
    """Check the parameters of a SoftmaxWithLoss layer."""
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


def _check_shared_names(layers: list[Layer]) -> None:
    """Check that no two parameters have the same name: Caffe would share their weights."""
    named = [(spec.name, layer) for layer in layers for spec in layer.message.param if spec.name]
    counts = collections.Counter(name for name, _ in named)
    for name, layer in named:
        if counts[name] > 1:
            raise layer.place.error(f"param: two blobs are called {name}; shared weights aren't supported", "param")
