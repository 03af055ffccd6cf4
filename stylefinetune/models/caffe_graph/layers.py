"""The module of each type of layer, for the sizes of its input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stylefinetune.caffe.graph.kinds import KINDS, enum_of, parameters_of, sides
from stylefinetune.caffe.layers import Layer
from stylefinetune.caffe.prototxt import round_float32
from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import joined_sizes
from stylefinetune.models.batch_norm import freeze_statistics
from stylefinetune.models.caffe_graph.fillers import fill
from stylefinetune.models.caffe_graph.operations import (
    CaffeBatchNorm,
    Concat,
    Eltwise,
    GlobalPool,
    InnerProduct,
    Reshape,
    Scale,
    WithinChannelNorm,
    pooled_size,
)
from stylefinetune.models.local_response_norm import LocalResponseNorm

Shape = tuple[int, ...]  # of a blob without its first axis, the pictures: (channels, height, width) or (outputs,)
Builder = Callable[[Layer, list[Shape], torch.Generator], nn.Module]


def build_layer(layer: Layer, shapes: list[Shape], generator: torch.Generator) -> nn.Module:
    """Return a layer's module for bottoms of these shapes, with the initial weights that its fillers draw.

    Raises:
        UserError: a setting is not supported, or impossible for these shapes.
    """
    return _BUILDERS[layer.message.type](layer, shapes, generator)


def _convolution(layer: Layer, shapes: list[Shape], generator: torch.Generator) -> nn.Module:
    channels, *_ = _picture(layer, shapes)
    values = parameters_of(layer)
    kernel, stride, pad = (_sides(layer, name) for name in ("kernel_size", "stride", "pad"))
    if channels % values.group or values.num_output % values.group:
        raise layer.place.error(f"{channels} channels and {values.num_output} outputs aren't multiples of its group")
    module = nn.Conv2d(
        *(channels, values.num_output, kernel, stride, pad),
        dilation=_sides(layer, "dilation"),
        groups=values.group,
        bias=values.bias_term,
    )
    _fill(layer, module, generator)
    return module


def _inner_product(layer: Layer, shapes: list[Shape], generator: torch.Generator) -> nn.Module:
    values = parameters_of(layer)
    module = InnerProduct(torch.Size(shapes[0]).numel(), values.num_output, bias=values.bias_term)
    _fill(layer, module, generator)
    return module


def _scale(layer: Layer, shapes: list[Shape], generator: torch.Generator) -> nn.Module:
    values = parameters_of(layer)
    module = Scale(shapes[0][0], has_bias=values.bias_term)
    filler = values.filler if values.HasField("filler") else _constant(1)
    fill(module.weight, filler, layer, generator)
    if module.bias is not None:
        fill(module.bias, values.bias_filler, layer, generator)
    return module


def _prelu(layer: Layer, shapes: list[Shape], generator: torch.Generator) -> nn.Module:
    values = parameters_of(layer)
    module = nn.PReLU(1 if values.channel_shared else shapes[0][0])
    fill(module.weight, values.filler if values.HasField("filler") else _constant(0.25), layer, generator)
    return module


def _batch_norm(layer: Layer, shapes: list[Shape], _: torch.Generator) -> nn.Module:
    values = parameters_of(layer)
    module = CaffeBatchNorm(shapes[0][0], round_float32(values.eps), round_float32(values.moving_average_fraction))
    return freeze_statistics(module) if values.use_global_stats else module


def _pooling(layer: Layer, shapes: list[Shape], _: torch.Generator) -> nn.Module:
    height, width = _picture(layer, shapes)[1:]
    values, pool = parameters_of(layer), enum_of(layer, "pool")
    if pool == "STOCHASTIC":
        raise layer.place_of("pooling_param").error("pool STOCHASTIC isn't supported; use MAX or AVE", "pool")
    if values.global_pooling:
        return GlobalPool(is_max=pool == "MAX")
    kernel, stride, pad = (_sides(layer, name) for name in ("kernel_size", "stride", "pad"))
    ceil = enum_of(layer, "round_mode") == "CEIL"
    for size, side, step, border in zip((height, width), kernel, stride, pad, strict=True):
        # PyTorch has neither wider borders nor windows that are outside of the picture.
        pooled = pooled_size(size, side, step, border, ceil=ceil)
        if 2 * border > side or pooled < 1 or (pooled - 1) * step >= size + border:
            raise layer.place_of("pooling_param").error(
                f"kernel {side}, stride {step} and pad {border} aren't supported for an input of {height}x{width}"
            )
    if pool == "MAX":
        return nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil)  # the mean counts the border's zeros, as in Caffe


def _lrn(layer: Layer, shapes: list[Shape], _: torch.Generator) -> nn.Module:
    _picture(layer, shapes)
    values = parameters_of(layer)
    if values.local_size % 2 == 0:
        raise layer.place_of("lrn_param").error("local_size must be odd", "local_size")
    alpha, beta = round_float32(values.alpha), round_float32(values.beta)
    if enum_of(layer, "norm_region") == "WITHIN_CHANNEL":
        return WithinChannelNorm(values.local_size, alpha, beta)
    return LocalResponseNorm(values.local_size, alpha, beta, round_float32(values.k))


def _relu(layer: Layer, _: list[Shape], __: torch.Generator) -> nn.Module:
    slope = round_float32(parameters_of(layer).negative_slope)
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _dropout(layer: Layer, _: list[Shape], __: torch.Generator) -> nn.Module:
    ratio = round_float32(parameters_of(layer).dropout_ratio)
    if not 0 <= ratio < 1:
        raise layer.place_of("dropout_param").error(f"dropout_ratio is {ratio:g}; it must be in [0, 1)")
    return nn.Dropout(ratio)


def _eltwise(layer: Layer, shapes: list[Shape], _: torch.Generator) -> nn.Module:
    coefficients = [round_float32(value) for value in parameters_of(layer).coeff] or [1.0] * len(shapes)
    if len(shapes) < 2 or len(set(shapes)) > 1:
        raise layer.place.error(f"its bottoms are {_names(shapes)}; two or more of one size are needed")
    if len(coefficients) != len(shapes):
        raise layer.place.error(f"it has {len(coefficients)} coeff for {len(shapes)} bottoms")
    return Eltwise(enum_of(layer, "operation"), coefficients)


def _concat(layer: Layer, shapes: list[Shape], _: torch.Generator) -> nn.Module:
    values = parameters_of(layer)
    return Concat(_axis(layer, values.concat_dim if values.HasField("concat_dim") else values.axis, shapes))


def _flatten(layer: Layer, shapes: list[Shape], _: torch.Generator) -> nn.Module:
    values = parameters_of(layer)
    return nn.Flatten(_axis(layer, values.axis, shapes), values.end_axis)


def _reshape(layer: Layer, _: list[Shape], __: torch.Generator) -> nn.Module:
    values = parameters_of(layer)
    return Reshape(list(values.shape.dim), values.axis, values.num_axes)


def _softmax(layer: Layer, shapes: list[Shape], _: torch.Generator) -> nn.Module:
    return nn.Softmax(_axis(layer, parameters_of(layer).axis, shapes))


_BUILDERS: dict[str, Builder] = {
    "Convolution": _convolution,
    "InnerProduct": _inner_product,
    "Scale": _scale,
    "PReLU": _prelu,
    "BatchNorm": _batch_norm,
    "Pooling": _pooling,
    "LRN": _lrn,
    "ReLU": _relu,
    "Sigmoid": lambda *_: nn.Sigmoid(),
    "TanH": lambda *_: nn.Tanh(),
    "Dropout": _dropout,
    "Concat": _concat,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Softmax": _softmax,
}


def _fill(layer: Layer, module: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    values = parameters_of(layer)
    fill(module.weight, values.weight_filler, layer, generator)
    if module.bias is not None:
        fill(module.bias, values.bias_filler, layer, generator)


def _constant(value: float) -> Any:  # noqa: ANN401 -- a message class made at run time
    return message_class("FillerParameter")(value=value)


def _picture(layer: Layer, shapes: list[Shape]) -> Shape:
    if len(shapes[0]) != 3:
        raise layer.place.error(f"its input is {_names(shapes)}; it needs channels x height x width")
    return shapes[0]


def _axis(layer: Layer, axis: int, shapes: list[Shape]) -> int:
    """Return an axis of a blob; the first one holds the pictures and is refused."""
    axes = len(shapes[0]) + 1
    if not 1 <= (axis if axis >= 0 else axis + axes) < axes:
        raise layer.place.error(f"axis {axis} isn't supported for an input of {_names(shapes)}")
    return axis


def _sides(layer: Layer, name: str) -> tuple[int, int]:
    found = sides(parameters_of(layer), name)
    if name != "pad" and min(found) < 1:
        raise layer.place_of(KINDS[layer.message.type].parameters).error(f"{name} is missing or 0")
    return found


def _names(shapes: list[Shape]) -> str:
    return " and ".join(map(joined_sizes, shapes))
