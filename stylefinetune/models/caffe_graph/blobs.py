"""The blobs of a layer in a .caffemodel.

They are the parameters, except of BatchNorm layers: the mean and the variance, times their factor, and the factor.
"""

import torch
from torch import nn

from stylefinetune.models.caffe_graph.operations import CaffeBatchNorm

_BLOBS = ("weight", "bias", "2")  # the names that `models.weight_files` gives to a layer's blobs


def name_statistics(net: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a .caffemodel, with the blobs of the network's BatchNorm layers as the module's buffers."""
    named = dict(tensors)
    for layer, module in net.named_children():
        blobs = [f"{layer}.{blob}" for blob in _BLOBS]
        if not isinstance(module, CaffeBatchNorm) or not named.keys() >= set(blobs):
            continue
        mean, variance, factor = (named.pop(blob).flatten() for blob in blobs)
        scale = 0.0 if factor[0] == 0 else 1 / factor[0]
        named |= {f"{layer}.running_mean": mean * scale, f"{layer}.running_var": variance * scale}
        named[f"{layer}.scale_factor"] = factor[0]
    return named


def layer_blobs(module: nn.Module) -> list[torch.Tensor]:
    """Return the blobs of a layer; none for one without weights."""
    if not isinstance(module, CaffeBatchNorm):
        return [parameter.detach() for parameter in module.parameters()]
    assert module.running_mean is not None
    assert module.running_var is not None
    factor = module.scale_factor
    return [module.running_mean * factor, module.running_var * factor, factor.reshape(1)]
