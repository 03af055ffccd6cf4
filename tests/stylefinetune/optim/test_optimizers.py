import pytest
import torch
from torch import nn

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.optim import optimizers
from stylefinetune.optim.caffe_sgd import CaffeSGD
from stylefinetune.optim.optimizers import STEP, build_optimizer, load_slot, new_state, slots_of
from stylefinetune.optim.param_groups import param_groups
from tests.stylefinetune.optim.nets import small_net

RULES = (
    LayerRule("conv1", lr_mult=0.0),
    LayerRule("fc8_*", lr_mult=10.0, decay_mult=2.0, bias_lr_mult=10.0, bias_decay_mult=0.5),
    LayerRule("*", bias_lr_mult=1.0),
)
# optim.optimizer and its settings, and the same of torch.optim
OPTIMIZERS = {
    "sgd": ({}, torch.optim.SGD, {"momentum": 0.9}),
    "sgd without momentum": ({"momentum": 0.0}, torch.optim.SGD, {}),
    "sgd with nesterov": ({"nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adamw": ({"betas": (0.8, 0.99), "eps": 1e-6}, torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-6}),
    "rmsprop": ({"eps": 0.03}, torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.9, "eps": 0.03}),
}
RATES = (0.1, 0.1, 0.01)


def config(name, **settings):
    return OptimConfig(optimizer=name.split()[0], weight_decay=0.05, layers=RULES, **settings)


def set_gradients(net, step):
    generator = torch.Generator().manual_seed(step)
    for value in net.parameters():
        if value.requires_grad:
            value.grad = torch.randn(value.shape, generator=generator)


def train(net, optimizer, steps=(0, 1, 2)):
    for step in steps:
        set_gradients(net, step)
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_updates_are_those_of_torch_with_the_multipliers_in_its_groups(name):
    settings, theirs, arguments = OPTIMIZERS[name]
    ours, plain = small_net(), small_net()
    train(ours, build_optimizer(param_groups(ours, config(name, **settings)), config(name, **settings)))

    fc7, last = plain.get_submodule("fc7"), plain.get_submodule("fc8_flickr")
    plain.get_submodule("conv1").requires_grad_(False)
    decays = {fc7.weight: (1, 1), fc7.bias: (1, 0), last.weight: (10, 2), last.bias: (10, 0.5)}
    groups = [{"params": [value], "weight_decay": 0.05 * decay} for value, (_, decay) in decays.items()]
    reference = theirs(groups, lr=0.0, **arguments)
    for step, lr in enumerate(RATES):
        set_gradients(plain, step)
        for group, (mult, _) in zip(reference.param_groups, decays.values(), strict=True):
            group["lr"] = lr * mult
        reference.step()
    for parameter, value in plain.named_parameters():
        assert torch.allclose(value, ours.get_parameter(parameter), rtol=1e-6, atol=1e-6), parameter
    assert torch.equal(ours.get_submodule("conv1").weight, small_net().get_submodule("conv1").weight)
    assert not torch.allclose(last.weight, small_net().get_submodule("fc8_flickr").weight)


@pytest.mark.parametrize("name", ["caffe_sgd", *OPTIMIZERS])
def test_the_state_has_all_slots_from_the_start_and_continues_bitwise(name):
    settings = OPTIMIZERS[name][0] if name in OPTIMIZERS else {}
    optim = config(name, **settings)
    straight, other = small_net(), small_net()
    first = build_optimizer(param_groups(straight, optim), optim)
    assert all(set(state) == set(slots_of(optim)) for state in first.state.values())
    assert len(first.state) == (4 if slots_of(optim) else len(first.state))
    assert not any(tensor.any() for state in first.state.values() for tensor in state.values())
    train(straight, first, range(2))
    second = build_optimizer(param_groups(other, optim), optim)
    with torch.no_grad():
        for value, copy in zip(straight.parameters(), other.parameters(), strict=True):
            copy.copy_(value)
            for slot in slots_of(optim) if value.requires_grad else ():
                load_slot({"": second.state[copy][slot]}, {"": first.state[value][slot]})
    for net, optimizer in ((straight, first), (other, second)):
        train(net, optimizer, range(2, 3))
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), other.parameters(), strict=True))


def test_caffes_sgd_is_the_default():
    assert isinstance(build_optimizer(param_groups(small_net(), OptimConfig()), OptimConfig()), CaffeSGD)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_kernel_does_the_whole_update_and_skips_it_if_a_gradient_is_infinite(name):
    net = small_net()
    optimizer = build_optimizer(param_groups(net, config(name)), config(name))
    assert all(group["fused"] for group in optimizer.param_groups)
    before = [value.clone() for value in net.parameters()]
    optimizer.found_inf = torch.tensor(1.0)  # as GradScaler does
    train(net, optimizer, range(1))
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_device_without_a_fused_kernel_and_gradients_of_other_strides_give_the_same(name, monkeypatch):
    optim = OptimConfig(optimizer=name.split()[0], layers=(), **OPTIMIZERS[name][0])
    trained = []
    for fused, memory_format in ((optimizers.FUSED, torch.channels_last), ((), torch.contiguous_format)):
        monkeypatch.setattr(optimizers, "FUSED", fused)
        net = nn.Sequential(nn.Conv2d(3, 4, 2)).to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in net.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))
        optimizer = build_optimizer(param_groups(net, optim), optim)
        for value in net.parameters():
            gradient = torch.randn(value.shape, generator=generator)
            value.grad = gradient.contiguous(memory_format=memory_format) if value.ndim == 4 else gradient
        optimizer.step()
        trained.append([value.detach().clone() for value in net.parameters()])
    assert all(torch.allclose(*pair, rtol=1e-6, atol=1e-7) for pair in zip(*trained, strict=True))


def test_a_group_may_be_empty_as_in_deepspeeds_stage_3():
    for name, (settings, _, _) in OPTIMIZERS.items():
        optim = OptimConfig(optimizer=name.split()[0], **settings)
        build_optimizer([{"params": [], "lr_mult": 1.0, "decay_mult": 1.0}], optim).step()


def test_a_slot_that_is_not_saved_becomes_zero():
    state = new_state(torch.ones(2), (STEP, "exp_avg"))
    assert {slot: tensor.shape for slot, tensor in state.items()} == {STEP: (), "exp_avg": (2,)}
    state["exp_avg"].fill_(3.0)
    load_slot({"a": state["exp_avg"]}, {"b": torch.ones(2)})
    assert state["exp_avg"].tolist() == [0.0, 0.0]
