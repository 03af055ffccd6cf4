import pytest
import torch
from torch import nn

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.errors import UserError
from stylefinetune.optim.optimizers import build_optimizer
from stylefinetune.optim.param_groups import freeze_groups, lr_mults, multipliers, param_groups, rule_multipliers
from tests.stylefinetune.optim.nets import small_net

RULES = (LayerRule(match="fc8_*", lr_mult=10.0),)


def with_rules(*rules):
    return OptimConfig(layers=rules)


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        ("conv1.weight", RULES, (1.0, 1.0)),
        ("conv1.bias", RULES, (2.0, 0.0)),
        ("encoder.attention.in_proj_bias", RULES, (2.0, 0.0)),
        ("class_token", (LayerRule("class_token", lr_mult=3.0),), (3.0, 1.0)),
        ("fc8_flickr.weight", RULES, (10.0, 1.0)),
        ("fc8_flickr.bias", RULES, (20.0, 0.0)),
        ("conv1.bias", (LayerRule("conv1", lr_mult=0.0),), (0.0, 0.0)),
        ("conv1.bias", (LayerRule("*", bias_lr_mult=1.0, bias_decay_mult=0.5),), (1.0, 0.5)),
        ("fc7.weight", (LayerRule("fc*", lr_mult=3.0), LayerRule("fc7", lr_mult=5.0)), (3.0, 1.0)),
    ],
)
def test_the_first_rule_that_matches_a_layer_applies(name, rules, expected):
    found = rule_multipliers(name, rules)
    assert (found.lr_mult, found.decay_mult, found.freeze_until) == (*expected, 0)


def test_parameters_are_grouped_by_their_multipliers():
    groups = param_groups(small_net(), with_rules(*RULES))
    found = {(group["lr_mult"], group["decay_mult"]): len(group["params"]) for group in groups}
    assert found == {(1.0, 1.0): 2, (2.0, 0.0): 2, (10.0, 1.0): 1, (20.0, 0.0): 1}
    assert lr_mults(small_net(), with_rules(*RULES)) == [1.0, 2.0, 10.0, 20.0]


def test_frozen_layers_have_no_gradient_and_the_backward_pass_ends_at_the_lowest_trained_layer():
    layers = small_net()
    param_groups(layers, with_rules(LayerRule("fc8_*"), LayerRule("*", lr_mult=0.0)))
    hidden = layers.get_submodule("fc7")(layers.get_submodule("conv1")(torch.ones(1, 3)))
    assert not hidden.requires_grad
    layers(torch.ones(1, 3)).sum().backward()
    assert [name for name, value in layers.named_parameters() if value.grad is not None] == [
        "fc8_flickr.weight",
        "fc8_flickr.bias",
    ]


def test_a_rule_that_matches_no_layer_is_an_error_that_lists_the_layers():
    with pytest.raises(UserError, match=r"'fc9_\*' matches no layer; the layers are conv1, fc7, fc8_flickr"):
        param_groups(small_net(), with_rules(LayerRule("fc9_*")))


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="freezes every layer"):
        param_groups(small_net(), with_rules(LayerRule("*", lr_mult=0.0)))


def test_the_layer_decay_multiplies_the_rates_of_the_rules():
    optim = OptimConfig(layers=(LayerRule("fc8_*", 10), LayerRule("*", bias_lr_mult=1)), layer_decay=0.5)
    rates = {name: given.lr_mult for name, given in multipliers(small_net(), optim).items()}
    assert rates == {
        "conv1.weight": 0.25,
        "conv1.bias": 0.25,
        "fc7.weight": 0.5,
        "fc7.bias": 0.5,
        "fc8_flickr.weight": 10.0,
        "fc8_flickr.bias": 20.0,
    }
    assert lr_mults(small_net(), optim) == [0.25, 20.0]


def test_parameters_of_one_dimension_have_no_decay_without_decay_norms():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    rules = (LayerRule("2", bias_decay_mult=1.0), LayerRule("*", decay_mult=0.5))
    with_norms = [given.decay_mult for given in multipliers(net, OptimConfig(layers=rules)).values()]
    without = [given.decay_mult for given in multipliers(net, OptimConfig(layers=rules, decay_norms=False)).values()]
    assert with_norms == [0.5, 0.0, 0.5, 0.0, 1.0, 1.0]
    assert without == [0.5, 0.0, 0.0, 0.0, 1.0, 0.0]


STAGED = (LayerRule("conv1", freeze_until=20), LayerRule("fc7", freeze_until=10), LayerRule("fc8_*"))


def test_groups_thaw_at_their_iteration():
    optim = with_rules(*STAGED)
    optimizer = build_optimizer(param_groups(small_net(), optim), optim)

    def frozen():
        return {group["freeze_until"] for group in optimizer.param_groups if group["frozen"]}

    assert frozen() == set()
    assert [(freeze_groups(optimizer, iteration), frozen()) for iteration in (0, 9, 10, 20, 21)] == [
        (True, {10, 20}),
        (False, {10, 20}),
        (True, {20}),
        (True, set()),
        (False, set()),
    ]


@pytest.mark.parametrize("name", ["caffe_sgd", "sgd", "adamw", "rmsprop"])
def test_a_frozen_group_and_its_state_do_not_change(name):
    optim = OptimConfig(name, layers=STAGED)
    net = small_net()
    optimizer = build_optimizer(param_groups(net, optim), optim)
    freeze_groups(optimizer, 15)
    before = {name: value.clone() for name, value in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name.partition(".")[0] for name, value in net.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"fc7", "fc8_flickr"}
    conv1 = net.get_submodule("conv1").weight
    assert not any(tensor.any() for tensor in optimizer.state[conv1].values())
    assert optimizer.state[net.get_submodule("fc7").weight]


def test_freezing_everything_at_the_beginning_is_refused():
    with pytest.raises(UserError, match="freezes every layer until iteration 5; remove freeze_until of at least one"):
        param_groups(small_net(), with_rules(LayerRule("fc*", freeze_until=5), LayerRule("*", freeze_until=9)))
