import pytest
import torch
from torch import nn

from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError
from stylefinetune.models.build import build_model
from stylefinetune.prediction.layers import LayerOutput, list_layers


class Pair(nn.Module):
    """Returns two tensors."""

    def forward(self, values):
        return values, values


def test_a_layer_that_is_changed_in_place_has_the_changed_output(network):
    """As Caffe's blobs."""
    layers = [LayerOutput(network.net, name) for name in ("fc7", "relu7", None, "conv1")]
    network(torch.full((2, 48, 48, 3), 100, dtype=torch.uint8))
    fc7, relu7, classifier_input, conv1 = (layer.take() for layer in layers)
    assert fc7.shape == (2, 32)
    assert fc7.min() == 0
    assert torch.equal(fc7, relu7)
    assert torch.equal(fc7, classifier_input)
    assert conv1.shape == (2, 8, 9, 9)
    assert layers[2].name == "input of fc8_flickr"


def test_layers_have_caffes_names():
    model = ModelConfig(widths=(2, 2, 2, 2, 2, 4, 4), last_layer="fc8/style.v2")
    net = build_model(model, 3, [(43, 43)], seed=0).eval()
    with torch.no_grad():
        layer = LayerOutput(net, "fc8/style.v2")
        net(torch.zeros(1, 3, 43, 43))
    assert layer.take().shape == (1, 3)


def test_any_network_has_layers():
    net = build_model(ModelConfig(arch="mobilenet_v2"), 3, [(64, 64)], seed=0).eval()
    listed = list_layers(net, lambda: net(torch.zeros(1, 3, 64, 64)))
    assert listed[-1] == ("classifier", "Sequential", (3,))
    assert ("features.0.0", "Conv2d", (32, 32, 32)) in listed
    layer = LayerOutput(net, None)
    with torch.no_grad():
        net(torch.zeros(2, 3, 64, 64))
    assert layer.name == "input of classifier.1"
    assert layer.take().shape == (2, 1280)


def test_a_layer_that_is_missing_unused_or_no_tensor_is_an_error():
    net = nn.Sequential()
    net.add_module("conv1", nn.Identity())
    net.add_module("pair", Pair())
    with pytest.raises(UserError, match="--layer conv2: the network has no such layer; did you mean conv1"):
        LayerOutput(net, "conv2")
    layer = LayerOutput(net, "pair")
    with pytest.raises(UserError, match="layer pair computes nothing"):
        layer.take()
    net(torch.zeros(1))
    with pytest.raises(UserError, match="layer pair returns a tuple, and not one tensor"):
        layer.take()
    assert [name for name, _, _ in list_layers(net, lambda: net(torch.zeros(1)))] == ["conv1"]
