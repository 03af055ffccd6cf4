"""The tensors of a network that a checkpoint stores."""

import torch
from torch import nn


def stored_buffers(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers that training changes or that a file of weights has, by name.

    Buffers that the network computes when it is built (register_buffer with persistent=False) are not stored.
    """
    stored = net.state_dict().keys()
    return {name: buffer for name, buffer in net.named_buffers() if name in stored}


def stored_tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and the stored buffers by name; one that several layers share has the first one's name."""
    return {**dict(net.named_parameters()), **stored_buffers(net)}


@torch.no_grad()
def load_tensors(net: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy `tensors`, which has all tensors that are stored and no others, into the network."""
    stored = stored_tensors(net)
    assert tensors.keys() == stored.keys()
    for name, tensor in stored.items():
        assert tensor.shape == tensors[name].shape
        tensor.copy_(tensors[name])
