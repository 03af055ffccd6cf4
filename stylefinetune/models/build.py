"""Builds the network of a config, with initial weights, and runs it on batches that may be empty."""

from collections.abc import Callable

import torch
from torch import nn

from stylefinetune.config.schema import CAFFE_GRAPH, CAFFENET, ModelConfig
from stylefinetune.errors import UserError, joined_sizes
from stylefinetune.models.architectures import build_architecture, check_inputs
from stylefinetune.models.caffe_graph.network import CaffeGraph
from stylefinetune.models.caffenet import SMALLEST_INPUT, CaffeNet, fill, is_valid_last_layer, pooled_size


def build_model(model: ModelConfig, num_classes: int, input_sizes: list[tuple[int, int]], seed: int) -> nn.Module:
    """Build the network that `model` describes; equal seeds give equal weights on every rank.

    `input_sizes` are the (height, width) in pixels of the inputs in training and in testing.

    Raises:
        UserError: there is no such network, or it can't have the inputs.
    """
    if model.arch == CAFFE_GRAPH:
        return _build_graph(model, num_classes, input_sizes, seed)
    if model.arch != CAFFENET:
        net = build_architecture(model, num_classes, input_sizes[0], seed)
        check_inputs(net, model.arch, num_classes, input_sizes)
        return net
    _check_caffenet(model, input_sizes)
    net = CaffeNet(model, num_classes, input_sizes[0])
    fill(net, model.weight_filler_std, model.bias_filler_value, torch.Generator().manual_seed(seed))
    return net


def run_network(network: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor) -> torch.Tensor:
    """Return the output of a network for float[b, 3, H, W]; b is 0 for a rank without pictures of a batch.

    Many transformers of timm can't have an empty batch. So such a rank runs the network for a blank picture, and drops
    its output: all gradients are 0. Batch normalization over all ranks has to see the empty batch.
    """
    if len(pictures) or _synchronizes(network):
        return network(pictures)
    return network(pictures.new_zeros(1, *pictures.shape[1:]))[:0]


def _synchronizes(network: object) -> bool:
    modules = network.modules() if isinstance(network, nn.Module) else ()
    return any(isinstance(module, nn.SyncBatchNorm) and module.training for module in modules)


def _build_graph(model: ModelConfig, num_classes: int, input_sizes: list[tuple[int, int]], seed: int) -> CaffeGraph:
    """Build a Caffe net, and check that it has the same weights for inputs of all sizes."""
    net, *others = (CaffeGraph(model.prototxt, num_classes, size, seed) for size in dict.fromkeys(input_sizes))
    shapes = [[parameter.shape for parameter in one.parameters()] for one in (net, *others)]
    if any(other != shapes[0] for other in shapes):
        raise _size_error(input_sizes)
    return net


def _check_caffenet(model: ModelConfig, input_sizes: list[tuple[int, int]]) -> None:
    """Check that an input isn't too small, that all need the same layers, and that the last layer's name is free."""
    if not is_valid_last_layer(model.last_layer):
        raise UserError(f"model.last_layer is {model.last_layer!r}, the name of another layer; choose another name")
    for size in input_sizes:
        if min(size) < SMALLEST_INPUT:
            raise UserError(
                f"data.crop_size makes inputs of {joined_sizes(size)} pixels, too small for CaffeNet; "
                f"use at least {SMALLEST_INPUT}"
            )
    if len({tuple(map(pooled_size, size)) for size in input_sizes}) > 1:
        raise _size_error(input_sizes)


def _size_error(input_sizes: list[tuple[int, int]]) -> UserError:
    return UserError(
        f"training's and testing's inputs of {' and '.join(map(joined_sizes, input_sizes))} pixels need fully "
        "connected layers of different sizes; set data.crop_size and data.test.crop_size to closer values"
    )
