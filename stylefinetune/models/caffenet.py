"""Caffe's CaffeNet: AlexNet with pooling before normalization; any widths, input size and number of classes."""

import math
import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from stylefinetune.config.schema import CAFFENET_DROPOUT, ModelConfig
from stylefinetune.models.layer_names import module_name
from stylefinetune.models.local_response_norm import LocalResponseNorm

SMALLEST_INPUT = 39  # pixels per side; pool5 then has an output of one pixel


class CaffeNet(nn.Sequential):
    """Network from [B, 3, H, W] float pictures, BGR, mean subtracted, to [B, num_classes] logits.

    Modules have the names of Caffe's layers (see layer_names), so that a .caffemodel can be copied by name.
    `input_size` is the (height, width) of the input in pixels, 227x227 for the published weights.
    """

    def __init__(self, model: ModelConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        c1, c2, c3, c4, c5, f6, f7 = model.widths
        assert min(input_size) >= SMALLEST_INPUT
        pooled = math.prod(map(pooled_size, input_size))
        dropout = CAFFENET_DROPOUT if model.dropout is None else model.dropout

        def pool() -> nn.Module:
            return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)

        def lrn() -> nn.Module:
            return LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0)

        super().__init__(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(3, c1, kernel_size=11, stride=4),
                relu1=nn.ReLU(inplace=True),
                pool1=pool(),
                norm1=lrn(),
                conv2=nn.Conv2d(c1, c2, kernel_size=5, padding=2, groups=2),
                relu2=nn.ReLU(inplace=True),
                pool2=pool(),
                norm2=lrn(),
                conv3=nn.Conv2d(c2, c3, kernel_size=3, padding=1),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(c3, c4, kernel_size=3, padding=1, groups=2),
                relu4=nn.ReLU(inplace=True),
                conv5=nn.Conv2d(c4, c5, kernel_size=3, padding=1, groups=2),
                relu5=nn.ReLU(inplace=True),
                pool5=pool(),
                flatten=nn.Flatten(),
                fc6=nn.Linear(c5 * pooled, f6),
                relu6=nn.ReLU(inplace=True),
                drop6=nn.Dropout(dropout),
                fc7=nn.Linear(f6, f7),
                relu7=nn.ReLU(inplace=True),
                drop7=nn.Dropout(dropout),
                **{module_name(model.last_layer): nn.Linear(f7, num_classes)},
            )
        )


def fill(net: CaffeNet, stds: Sequence[float], biases: Sequence[float], generator: torch.Generator) -> None:
    """Initialize conv1 to fc7 and the last layer with Caffe's gaussian (weights) and constant (biases) fillers."""
    layers = [layer for layer in net.children() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer, std, bias in zip(layers, stds, biases, strict=True):
        nn.init.normal_(layer.weight, std=std, generator=generator)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, bias)


def is_valid_last_layer(name: str) -> bool:
    """Return whether the last layer can be called `name`: no other layer is."""
    return re.fullmatch(r"(conv|relu|pool|norm|fc|drop)[1-7]|flatten", name) is None


def pooled_size(input_size: int) -> int:
    """Return the side of pool5's output for a side of the input; Caffe's pooling rounds up."""
    size = (input_size - 11) // 4 + 1
    for _ in ("pool1", "pool2", "pool5"):
        size = math.ceil((size - 3) / 2) + 1
    return size
