import pytest
import torch

from stylefinetune.config.schema import ModelConfig
from stylefinetune.models.caffenet import CaffeNet, fill, pooled_size

WIDTHS = (96, 256, 384, 384, 256, 4096, 4096)


def caffenet(input_size=(80, 80), **settings):
    return CaffeNet(ModelConfig(**{"widths": (8, 16, 24, 24, 16, 32, 32), **settings}), 20, input_size)


def test_the_full_size_network_has_the_parameters_of_caffenet():
    net = caffenet(widths=WIDTHS, input_size=(227, 227))
    sizes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert sizes["conv1.weight"] == (96, 3, 11, 11)
    assert sizes["conv2.weight"] == (256, 48, 5, 5)
    assert sizes["fc6.weight"] == (4096, 256 * 6 * 6)
    assert sizes["fc8_flickr.weight"] == (20, 4096)
    assert sum(parameter.numel() for parameter in net.parameters()) == 56_950_164


@pytest.mark.parametrize(("input_size", "expected"), [(227, 6), (80, 2), (75, 2), (67, 1), (39, 1)])
def test_pooling_rounds_up(input_size, expected):
    assert pooled_size(input_size) == expected
    net = caffenet(input_size=(input_size, input_size)).eval()
    assert net(torch.zeros(1, 3, input_size, input_size)).shape == (1, 20)


def test_initial_weights_are_caffes_and_depend_on_the_seed():
    model = ModelConfig()

    def initialized(seed):
        net = caffenet(widths=(96, 256, 64, 64, 64, 64, 64), input_size=(227, 227))
        fill(net, model.weight_filler_std, model.bias_filler_value, torch.Generator().manual_seed(seed))
        return net

    net = initialized(1)
    assert net.conv1.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert net.fc6.weight.std().item() == pytest.approx(0.005, rel=0.05)
    assert net.conv1.bias.unique().tolist() == [0.0]
    assert net.conv2.bias.unique().tolist() == [1.0]
    assert net.get_submodule("fc8_flickr").bias.unique().tolist() == [0.0]
    assert torch.equal(net.conv3.weight, initialized(1).conv3.weight)
    assert not torch.equal(net.conv3.weight, initialized(2).conv3.weight)


def test_dropout_is_off_in_testing_and_scales_up_in_training():
    net = caffenet(dropout=0.5)
    pictures = torch.randn(2, 3, 80, 80)
    net.eval()
    assert torch.equal(net(pictures), net(pictures))
    net.train()
    assert not torch.equal(net(pictures), net(pictures))
    ones = net.get_submodule("drop6")(torch.ones(10000))
    assert set(ones.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalization_computes_in_fp32_since_squares_overflow_in_float16(dtype):
    norm1 = caffenet().get_submodule("norm1")
    activations = (torch.rand(2, 8, 5, 5) * 1000).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(norm1(activations), norm1(activations.float()))
    assert norm1(activations).min() > 0


def test_an_empty_batch_has_zero_gradients():
    net = caffenet()
    net(torch.empty(0, 3, 80, 80)).sum().backward()
    assert all(parameter.grad.abs().sum() == 0 for parameter in net.parameters())


def test_inputs_may_be_rectangular():
    net = caffenet(input_size=(80, 120)).eval()
    assert net(torch.zeros(1, 3, 80, 120)).shape == (1, 20)
    assert net.get_submodule("fc6").in_features == 16 * 2 * 3
