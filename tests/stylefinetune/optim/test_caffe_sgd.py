import numpy as np
import pytest
import torch
from torch import nn

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.optim import caffe_sgd
from stylefinetune.optim.caffe_sgd import MOMENTUM, CaffeSGD
from stylefinetune.optim.param_groups import param_groups
from tests.stylefinetune.optim.nets import small_net

RULES = (LayerRule(match="fc8_*", lr_mult=10.0),)


def test_the_update_is_caffes_with_the_rate_inside_the_momentum():
    layers = small_net()
    optim = OptimConfig(momentum=0.9, weight_decay=0.05)
    optimizer = CaffeSGD(param_groups(layers, OptimConfig(layers=RULES)), optim)
    weights = {name: value.detach().double().numpy().copy() for name, value in layers.named_parameters()}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for step, lr in enumerate((0.1, 0.1, 0.01)):
        for name, value in layers.named_parameters():
            value.grad = torch.full_like(value, 0.5 + step)
            lr_mult, decay_mult = {"fc8_flickr": (10, 1)}.get(name.split(".")[0], (1, 1))
            if name.endswith("bias"):
                lr_mult, decay_mult = 2 * lr_mult, 0
            gradient = 0.5 + step + 0.05 * decay_mult * weights[name]
            velocity[name] = 0.9 * velocity[name] + lr * lr_mult * gradient
            weights[name] = weights[name] - velocity[name]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    for name, value in layers.named_parameters():
        assert np.allclose(value.detach().numpy(), weights[name], rtol=1e-5, atol=1e-6)
        assert np.allclose(optimizer.state[value][MOMENTUM].numpy(), velocity[name], rtol=1e-5, atol=1e-6)


def optimize_one_tensor(momentum=0.9, trust=0.0, device="cpu"):
    """Return a channels-last tensor, its gradient and its optimizer, with V = 2."""
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).to(device)
    weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    gradient = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)).to(device)
    weight.grad = gradient.clone(memory_format=torch.preserve_format)
    optim = OptimConfig(base_lr=0.1, momentum=momentum, weight_decay=0.05, lars_trust=trust)
    optimizer = CaffeSGD([{"params": [weight], "lr_mult": 3.0, "decay_mult": 2.0}], optim)
    optimizer.state[weight][MOMENTUM].fill_(2.0)
    return weight, gradient, optimizer


def test_a_gradient_may_have_other_strides_than_its_weight():
    weight, gradient, optimizer = optimize_one_tensor()
    before = weight.detach().clone()
    weight.grad = gradient.contiguous()
    assert weight.grad.stride() != weight.stride()
    optimizer.step()
    velocity = 0.9 * 2 + 0.3 * (gradient + 0.1 * before)
    assert torch.allclose(optimizer.state[weight][MOMENTUM], velocity, rtol=1e-5)
    assert torch.allclose(weight, before - velocity, rtol=1e-5)


def test_without_momentum_the_last_update_is_stored_all_the_same():
    weight, gradient, optimizer = optimize_one_tensor(momentum=0.0)
    before = weight.detach().clone()
    optimizer.step()
    update = 0.3 * (gradient + 0.1 * before)
    assert torch.allclose(optimizer.state[weight][MOMENTUM], update, rtol=1e-5, atol=1e-7)
    assert torch.allclose(weight, before - update, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trust", [0.0, 0.01])
def test_a_step_with_an_infinite_gradient_changes_nothing(trust):
    weight, _, optimizer = optimize_one_tensor(trust=trust)
    before = weight.detach().clone()
    weight.grad[0, 0, 0, 0] = torch.inf
    optimizer.found_inf = torch.tensor(1.0)  # as GradScaler does
    optimizer.step()
    assert torch.equal(weight, before)
    assert torch.equal(optimizer.state[weight][MOMENTUM], torch.full_like(weight, 2.0))
    weight.grad.fill_(1.0)
    optimizer.found_inf.zero_()
    optimizer.step()
    assert not torch.equal(weight, before)


def test_a_device_without_a_fused_kernel_computes_the_same(monkeypatch):
    fused, _, first = optimize_one_tensor()
    plain, _, second = optimize_one_tensor()
    first.step()
    monkeypatch.setattr(caffe_sgd, "FUSED", ())
    second.step()
    assert torch.allclose(fused, plain, rtol=1e-6)
    assert torch.allclose(first.state[fused][MOMENTUM], second.state[plain][MOMENTUM], rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_gpu_computes_the_same(momentum):
    (on_cpu, _, first), (on_gpu, _, second) = (
        optimize_one_tensor(momentum, device=device) for device in ("cpu", "cuda")
    )
    for optimizer in (first, second):
        optimizer.step()
    assert torch.allclose(on_cpu, on_gpu.cpu(), rtol=1e-6)
    assert torch.allclose(first.state[on_cpu][MOMENTUM], second.state[on_gpu][MOMENTUM].cpu(), rtol=1e-6)


def test_a_group_may_be_empty_as_in_deepspeeds_stage_3():
    CaffeSGD([{"params": [], "lr_mult": 1.0, "decay_mult": 1.0}], OptimConfig()).step()


def test_lars_scales_the_rate_of_each_tensor_by_the_papers_formula():
    layers = small_net()
    with torch.no_grad():
        layers.get_submodule("fc7").bias.zero_()  # its norm is 0, so its local rate is 1
    optim = OptimConfig(momentum=0.9, weight_decay=0.05, lars_trust=0.01)
    optimizer = CaffeSGD(param_groups(layers, OptimConfig(layers=RULES)), optim)
    weights = {name: value.detach().double().numpy().copy() for name, value in layers.named_parameters()}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    local_rates = {name: [] for name in weights}
    for step, lr in enumerate((2.0, 0.5)):
        for index, (name, value) in enumerate(layers.named_parameters()):
            gradient = np.arange(1.0, 1 + value.numel()).reshape(value.shape) * (1 + step) / (3 + index)
            value.grad = torch.tensor(gradient, dtype=torch.float32)
            lr_mult, decay = {"fc8_flickr": 10}.get(name.split(".")[0], 1), 0.05
            if name.endswith("bias"):
                lr_mult, decay = 2 * lr_mult, 0.0
            norm = np.sqrt((weights[name] ** 2).sum())
            local = 0.01 * norm / (np.sqrt((gradient**2).sum()) + decay * norm) if norm else 1.0
            local_rates[name].append(local)
            velocity[name] = 0.9 * velocity[name] + lr * lr_mult * local * (gradient + decay * weights[name])
            weights[name] = weights[name] - velocity[name]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    for name, value in layers.named_parameters():
        assert np.allclose(value.detach().numpy(), weights[name], rtol=1e-5, atol=1e-6), name
        assert np.allclose(optimizer.state[value][MOMENTUM].numpy(), velocity[name], rtol=1e-5, atol=1e-6), name
    assert local_rates["fc7.bias"][0] == 1
    assert len({rate for rates in local_rates.values() for rate in rates}) == 12


def test_lars_does_not_wait_for_the_device():
    layers = small_net().to("meta")  # has no values to read
    optimizer = CaffeSGD(param_groups(layers, OptimConfig(layers=RULES)), OptimConfig(lars_trust=0.01))
    for value in layers.parameters():
        value.grad = torch.empty_like(value)
    optimizer.step()


def test_lars_applies_only_the_decay_to_a_tensor_with_zero_gradient():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.fill_(1.0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    groups = [{"params": [layer.weight], "lr_mult": 1.0, "decay_mult": 1.0}]
    optimizer = CaffeSGD(groups, OptimConfig(base_lr=1.0, weight_decay=0.1, lars_trust=0.01))
    optimizer.step()
    assert layer.weight.tolist() == [[pytest.approx(0.9)] * 2]
