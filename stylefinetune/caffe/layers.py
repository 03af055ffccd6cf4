"""Reads the layers of a net that belong to a phase, after Caffe's upgrades of old formats."""

import dataclasses
from typing import Any

from google.protobuf.message import Message

from stylefinetune.caffe.prototxt import Place
from stylefinetune.caffe.schema import enum_name, message_class

_V1_TYPES = {  # whose current names are not the same words
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}
# Fields of ImageDataParameter and DataParameter that Caffe moves to transform_param.
_MOVED = ("scale", "mean_file", "crop_size", "mirror")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer in the current format."""

    message: Any  # a LayerParameter
    place: Place

    def place_of(self, field: str) -> Place:
        """Return the place of one of the layer's messages."""
        return self.place.at(field)


@dataclasses.dataclass(frozen=True)
class Net:
    """A NetParameter."""

    message: Any
    place: Place

    def layers(self, phase: str, solver_state: Message | None) -> list[Layer]:
        """Return the layers that Caffe includes in a phase, TRAIN or TEST; the solver may add levels and stages.

        Raises:
            UserError: the net has layers in both formats, or in that of 2013.
        """
        state = message_class("NetState")(phase=["TRAIN", "TEST"].index(phase))
        state.MergeFrom(self.message.state)
        if solver_state is not None:
            state.MergeFrom(solver_state)
        return [layer for layer in self._upgraded() if _is_included(layer, state)]

    def _upgraded(self) -> list[Layer]:
        net, place = self.message, self.place
        if net.layer and net.layers:
            raise place.error("the net has both `layer` and `layers`; use one of the two formats", "layers")
        old = [_upgrade_v1(layer, place.at("layers", index, "")) for index, layer in enumerate(net.layers)]
        found = old or [Layer(layer, place.at("layer", index, "")) for index, layer in enumerate(net.layer)]
        named = [
            dataclasses.replace(one, place=dataclasses.replace(one.place, label=f"layer {one.message.name}"))
            for one in found
        ]
        for layer in named:
            _move_transformations(layer.message)
        return named


def _upgrade_v1(old: Any, place: Place) -> Layer:  # noqa: ANN401 -- a message class made at run time
    """Convert a V1LayerParameter as Caffe does."""
    if old.HasField("layer"):
        raise place.error("a layer in the format of 2013 (V0); convert the file with Caffe's upgrade_net_proto_text")
    new: Any = message_class("LayerParameter")()
    for field, value in old.ListFields():
        match field.name:
            case "type":
                name = enum_name(old, "type")
                new.type = _V1_TYPES.get(name) or "".join(word.capitalize() for word in name.split("_"))
            case "blobs_lr" | "weight_decay" | "param" | "blob_share_mode":
                target = {"blobs_lr": "lr_mult", "weight_decay": "decay_mult", "param": "name"}
                for index, one in enumerate(value):
                    while len(new.param) <= index:
                        new.param.add()
                    setattr(new.param[index], target.get(field.name, "share_mode"), one)
            case name if field.is_repeated:
                getattr(new, name).extend(value)
            case name if field.message_type is not None:
                getattr(new, name).CopyFrom(value)
            case name:
                setattr(new, name, value)
    return Layer(new, place)


def _move_transformations(layer: Any) -> None:  # noqa: ANN401
    """Move the transformations in an old image_data_param or data_param to transform_param, as Caffe does."""
    for parameters in ("image_data_param", "data_param"):
        values = getattr(layer, parameters)
        for name in _MOVED:
            if layer.HasField(parameters) and values.HasField(name):
                setattr(layer.transform_param, name, getattr(values, name))
                values.ClearField(name)


def _is_included(layer: Layer, state: Any) -> bool:  # noqa: ANN401
    include, exclude = layer.message.include, layer.message.exclude
    if include and exclude:
        raise layer.place.error("it has both include and exclude; Caffe accepts only one of them", "exclude")
    if include:
        return any(_meets(rule, state) for rule in include)
    return not any(_meets(rule, state) for rule in exclude)


def _meets(rule: Any, state: Any) -> bool:  # noqa: ANN401
    return not (
        (rule.HasField("phase") and rule.phase != state.phase)
        or (rule.HasField("min_level") and state.level < rule.min_level)
        or (rule.HasField("max_level") and state.level > rule.max_level)
        or not set(rule.stage) <= set(state.stage)
        or set(rule.not_stage) & set(state.stage)
    )
