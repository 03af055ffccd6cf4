"""Describes a network as Caffe's deploy prototxt."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import UserError

INPUT, OUTPUT = "data", "prob"  # with an underscore if a layer has that name


def deploy_net(
    layers: Iterable[tuple[str, nn.Module]], name: str, input_size: tuple[int, int], output: str = "Softmax"
) -> Any:  # noqa: ANN401 -- see message_class
    """Return a NetParameter, called `name`, that computes class probabilities with `layers`, one after the other.

    Its input is one picture of `input_size`, (height, width) in pixels. `output` is the type of its last layer.

    Raises:
        UserError: Caffe has no equivalent of a layer.
    """
    named = dict(layers)
    first, last = (f"{blob}_" if blob in named else blob for blob in (INPUT, OUTPUT))
    deploy = message_class("NetParameter")(name=name)
    data = deploy.layer.add(name=first, type="Input", top=[first])
    data.input_param.shape.add(dim=[1, 3, *input_size])
    blob = first
    for layer_name, layer in named.items():
        if isinstance(layer, nn.Flatten) or (isinstance(layer, nn.Dropout) and layer.p == 0):
            continue  # Caffe's InnerProduct flattens, and its Dropout doesn't accept a ratio of 0
        in_place = isinstance(layer, (nn.ReLU, nn.Dropout))
        top = blob if in_place else layer_name
        _describe(layer, deploy.layer.add(name=layer_name, bottom=[blob], top=[top]))
        blob = top
    deploy.layer.add(name=last, type=output, bottom=[blob], top=[last])
    return deploy


def _describe(layer: nn.Module, message: Any) -> None:  # noqa: ANN401 -- see message_class
    """Set the type and the parameters of a LayerParameter."""
    match layer:
        case nn.Conv2d(dilation=(1, 1), padding_mode="zeros"):
            message.type = "Convolution"
            values = message.convolution_param
            values.num_output, values.group = layer.out_channels, layer.groups
            values.kernel_size.append(_side(layer.kernel_size))
            values.stride.append(_side(layer.stride))
            values.pad.append(_side(layer.padding))
        case nn.Linear():
            message.type = "InnerProduct"
            message.inner_product_param.num_output = layer.out_features
        case nn.ReLU():
            message.type = "ReLU"
        case nn.Dropout():
            message.type = "Dropout"
            message.dropout_param.dropout_ratio = layer.p
        case nn.MaxPool2d(ceil_mode=True, padding=0, dilation=1):
            message.type = "Pooling"
            message.pooling_param.kernel_size = _side(layer.kernel_size)
            message.pooling_param.stride = _side(layer.stride)
        case nn.LocalResponseNorm():
            message.type = "LRN"
            values = message.lrn_param
            values.local_size, values.alpha, values.beta, values.k = layer.size, layer.alpha, layer.beta, layer.k
        case _:
            raise UserError(f"layer {message.name} ({layer}) can't be exported: Caffe has no such layer")


def _side(size: Any) -> int:  # noqa: ANN401 -- an int, or a tuple of them
    sides = {size} if isinstance(size, int) else set(size)
    assert len(sides) == 1
    return sides.pop()
