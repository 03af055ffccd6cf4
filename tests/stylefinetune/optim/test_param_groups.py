import pytest
import torch

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.errors import UserError
from stylefinetune.optim.param_groups import lr_mults, multipliers, param_groups
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
    assert multipliers(name, rules) == expected


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
