import pytest
import torch
from torch import nn
from torchvision import models

from stylefinetune.config.schema import ModelConfig
from stylefinetune.models.caffenet import CaffeNet
from stylefinetune.models.flops import peak_flops, training_flops


def test_a_forward_pass_has_the_published_number_of_operations():
    """torchvision publishes 1.81 GFLOPS for ResNet-18, and counts a multiplication with an addition as one."""
    with torch.device("meta"):
        net = models.resnet18()
    for parameter in net.parameters():
        parameter.requires_grad_(requires_grad=False)
    net.fc.weight.requires_grad_(requires_grad=True)
    last_layer = 2 * 512 * 1000
    assert training_flops(net, (224, 224)) == pytest.approx(2 * 1.814e9 + last_layer, rel=1e-3)


def test_the_backward_pass_takes_twice_as_many_except_below_the_first_layer():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 5))
    first, second = 2 * 12 * 8, 2 * 8 * 5
    assert training_flops(net, (2, 2)) == 3 * second + 2 * first
    net[1].requires_grad_(requires_grad=False)
    assert training_flops(net, (2, 2)) == 2 * second + first


def test_counting_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    training_flops(net, (2, 2))
    assert net[1].weight.device.type == "cpu"
    assert net[1].weight.grad is None
    assert net.training


def test_the_groups_of_a_convolution_are_separate():
    """Caffe's network has 724 million multiplications a picture of 227x227 pixels, conv1 105 million of them."""
    with torch.device("meta"):
        net = CaffeNet(ModelConfig(), 1000, (227, 227))
    assert training_flops(net, (227, 227)) == pytest.approx(2 * (3 * 724.4e6 - 105.4e6), rel=1e-3)


class LooksAtNumbers(nn.Module):
    def forward(self, pictures):
        return pictures if pictures.sum().item() > 0 else -pictures


class RefusesMeta(nn.Module):
    def forward(self, pictures):
        assert pictures.device.type == "cpu"
        return pictures


@pytest.mark.parametrize("net", [LooksAtNumbers(), RefusesMeta()])
def test_a_network_that_needs_its_numbers_is_not_counted(net):
    assert training_flops(net, (2, 2)) is None


def test_the_peak_of_a_gpu_depends_on_the_precision():
    assert peak_flops("NVIDIA H100 PCIe", "fp32") == 51.2e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "tf32") == 156e12
    assert peak_flops("NVIDIA A10", "fp16") == 125e12
    assert peak_flops("NVIDIA L40S", "fp32") == 91.6e12
    assert peak_flops("Unheard of", "fp32") is None
    assert peak_flops("cpu", "fp32") is None
