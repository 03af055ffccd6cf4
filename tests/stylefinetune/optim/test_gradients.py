import pytest
import torch
from torch import nn

from stylefinetune.optim.gradients import clip_gradients, strided_like


def with_gradients(*gradients):
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return torch.optim.SGD(parameters, lr=1.0), parameters


def test_gradients_are_scaled_to_a_common_norm_and_only_if_it_is_larger():
    optimizer, (first, second) = with_gradients([3.0, 0.0], [4.0])
    clip_gradients(optimizer, 5.5)
    assert (first.grad.tolist(), second.grad.tolist()) == ([3.0, 0.0], [4.0])
    clip_gradients(optimizer, 2.5)
    assert first.grad.tolist() == pytest.approx([1.5, 0.0])
    assert second.grad.tolist() == pytest.approx([2.0])


def test_a_gradient_is_copied_only_if_its_strides_are_not_those_of_the_weight():
    weight = torch.zeros(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(4, 3, 2, 2)
    copied = strided_like(weight, gradient)
    assert copied.stride() == weight.stride()
    assert torch.equal(copied, gradient)
    assert strided_like(weight, copied) is copied
