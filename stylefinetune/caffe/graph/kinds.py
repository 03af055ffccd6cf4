"""The types of layers that can be part of a net, and the settings of each that are supported."""

import dataclasses
from typing import Any

from stylefinetune.caffe.layers import Layer
from stylefinetune.caffe.schema import enum_name

_FILLERS = {"weight_filler", "bias_filler", "filler"}
SIZES = {"kernel_size": 0, "stride": 1, "pad": 0, "dilation": 1}  # sizes in pixels, and their defaults
_SIZES = {
    *SIZES,
    *("pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "force_nd_im2col", "engine"),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type of layer."""

    parameters: str = ""  # the field of its parameters; empty if it has none
    free: frozenset[str] = frozenset()  # fields that may have any value; others must have Caffe's default
    blobs: int = 0  # the number of learned blobs
    bottoms: int = 1  # the number of its bottoms; 0 for any number


def _kind(parameters: str, *free: str, blobs: int = 0, bottoms: int = 1) -> Kind:
    return Kind(parameters, frozenset(free), blobs, bottoms)


KINDS = {
    "Convolution": _kind("convolution_param", "num_output", "group", "bias_term", *_SIZES, *_FILLERS, blobs=2),
    "InnerProduct": _kind("inner_product_param", "num_output", "bias_term", *_FILLERS, blobs=2),
    "Scale": _kind("scale_param", "bias_term", *_FILLERS, blobs=2),
    "PReLU": _kind("prelu_param", "channel_shared", *_FILLERS, blobs=1),
    "BatchNorm": _kind("batch_norm_param", "use_global_stats", "moving_average_fraction", "eps"),
    "Pooling": _kind("pooling_param", "pool", "global_pooling", "round_mode", *_SIZES),
    "LRN": _kind("lrn_param", "local_size", "alpha", "beta", "k", "norm_region", "engine"),
    "ReLU": _kind("relu_param", "negative_slope", "engine"),
    "Sigmoid": _kind("sigmoid_param", "engine"),
    "TanH": _kind("tanh_param", "engine"),
    "Dropout": _kind("dropout_param", "dropout_ratio"),
    "Concat": _kind("concat_param", "axis", "concat_dim", bottoms=0),
    "Eltwise": _kind("eltwise_param", "operation", "coeff", "stable_prod_grad", bottoms=0),
    "Flatten": _kind("flatten_param", "axis", "end_axis"),
    "Reshape": _kind("reshape_param", "shape", "axis", "num_axes"),
    "Softmax": _kind("softmax_param", "axis", "engine"),
}
STATISTICS = 3  # blobs of BatchNorm: mean, variance and their common factor, none of which the solver changes


def parameters_of(layer: Layer) -> Any:  # noqa: ANN401 -- a message class made at run time
    """Return the message with the parameters of a layer's type."""
    return getattr(layer.message, KINDS[layer.message.type].parameters)


def enum_of(layer: Layer, field: str) -> str:
    """Return the name of an enum field in a layer's parameters."""
    return enum_name(parameters_of(layer), field)


def sides(parameters: Any, name: str) -> tuple[int, int]:  # noqa: ANN401
    """Return one of SIZES in both directions, (height, width); a prototxt gives it once, twice, or as _h and _w."""
    height, width = (f"{name.removesuffix('_size')}_{side}" for side in "hw")
    if height in parameters.DESCRIPTOR.fields_by_name and (parameters.HasField(height) or parameters.HasField(width)):
        return getattr(parameters, height), getattr(parameters, width)
    given = getattr(parameters, name)
    values = [given] if isinstance(given, int) else list(given) or [SIZES[name]]
    return values[0], values[-1]
