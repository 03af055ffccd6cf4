"""From a config to a network with freshly filled layers."""

import torch
from torch import nn

from stylefinetune.caffenet import SMALLEST_INPUT, CaffeNet, CaffeNetShape, pooled_size
from stylefinetune.config import Config
from stylefinetune.errors import UserError


def build(config: Config, num_classes: int) -> nn.Module:
    """Builds the network that `config.model` describes; equal seeds give equal weights on every rank.

    Raises:
        UserError: the crops are too small for it, or training's and testing's don't fit one network.
    """
    sizes = {
        key: config.data.input_size(training=key == "data.crop_size")
        for key in ("data.crop_size", "data.test_crop_size")
    }
    for key, size in sizes.items():
        if size < SMALLEST_INPUT:
            raise UserError(
                f"{key} makes inputs of {size} pixels, too small for CaffeNet; use at least {SMALLEST_INPUT}"
            )
    if len({pooled_size(size) for size in sizes.values()}) > 1:
        raise UserError(
            f"data.crop_size and data.test_crop_size make inputs of {' and '.join(map(str, sizes.values()))} pixels, "
            "which need fully connected layers of different sizes; bring them closer"
        )
    net = CaffeNet(
        CaffeNetShape(
            widths=config.model.widths,
            num_classes=num_classes,
            last_layer=config.model.last_layer,
            input_size=sizes["data.crop_size"],
            dropout=config.model.dropout,
        )
    )
    generator = torch.Generator().manual_seed(config.train.seed)
    net.fill(config.model.weight_filler_std, config.model.bias_filler_value, generator)
    return net
