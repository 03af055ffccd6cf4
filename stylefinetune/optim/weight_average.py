"""An exponential moving average of the weights during training, as in Polyak and Juditsky (1992) and timm's ModelEma.

The average often has a higher accuracy than the weights of the last iteration, above all with a constant learning rate.
"""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stylefinetune.models.state import load_tensors, stored_tensors

EMA = "ema"  # the name in a checkpoint


class WeightAverage:
    """Averages the parameters and the buffers of a network; begins with their values at the start.

    Args:
        net: the network in training.
        decay: part of the average that an update keeps. Buffers of integers, such as indices, are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(requires_grad=False).eval()
        self._source = net
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights; does not wait for the device."""
        current = stored_tensors(self._source)
        averaged: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        for name, tensor in stored_tensors(self.net).items():
            if tensor.is_floating_point():
                averaged.append(tensor)
                values.append(current[name].detach())
            else:
                tensor.copy_(current[name])
        self._average(averaged, values, 0)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the averages by name; the next update overwrites them."""
        return {name: tensor.detach() for name, tensor in stored_tensors(self.net).items()}

    def load(self, saved: dict[str, torch.Tensor]) -> None:
        """Load averages by name; if there are none, as in a run without an average, begin with the current weights."""
        load_tensors(self.net, saved or stored_tensors(self._source))
