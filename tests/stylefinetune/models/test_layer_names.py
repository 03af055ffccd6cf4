import pytest
import torch
from torch import nn

from stylefinetune.config.schema import ModelConfig
from stylefinetune.models.build import build_model
from stylefinetune.models.layer_names import layer_name, module_name, split_parameter

NAMES = ["fc8", "fc8-mine", "fc8/style.v2", "my fc", "train", "forward", "weight", "100%", "%2E", "层8", ".", "a.b.c"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_a_modules_name_and_back(name):
    net = nn.Sequential()
    net.add_module(module_name(name), nn.Linear(2, 3))
    assert layer_name(module_name(name)) == name
    assert [split_parameter(parameter) for parameter, _ in net.named_parameters()] == [(name, "weight"), (name, "bias")]


def test_different_names_stay_different():
    assert len(set(map(module_name, NAMES))) == len(NAMES)


@pytest.mark.parametrize("name", ["fc8", "fc8_flickr", "fc8-mine", "fc8/style v2", "classifier"])
def test_the_names_in_earlier_checkpoints_are_unchanged(name):
    assert module_name(name) == name


@pytest.mark.parametrize("name", NAMES)
def test_a_network_can_have_a_last_layer_of_any_name(name):
    net = build_model(ModelConfig(widths=(8, 16, 24, 24, 16, 32, 32), last_layer=name), 7, [(80, 80)], seed=1)
    assert net(torch.zeros(1, 3, 80, 80)).shape == (1, 7)
    assert split_parameter(list(net.state_dict())[-1]) == (name, "bias")


def test_a_parameter_outside_any_layer_is_a_layer_by_itself():
    assert split_parameter("class_token") == ("class_token", "")
    assert split_parameter("encoder.layers.0.self_attention.in_proj_bias") == (
        "encoder.layers.0.self_attention",
        "in_proj_bias",
    )
