from collections import OrderedDict

import pytest
from torch import nn

from stylefinetune.caffe.deploy_net import deploy_net
from stylefinetune.errors import UserError


def test_a_dropout_of_0_is_skipped():
    net = nn.Sequential(OrderedDict(fc1=nn.Linear(3, 4), drop1=nn.Dropout(0), drop2=nn.Dropout(0.25)))
    layers = deploy_net(net.named_children(), "Small", (1, 1)).layer
    assert [layer.name for layer in layers] == ["data", "fc1", "drop2", "prob"]
    assert layers[2].dropout_param.dropout_ratio == 0.25
    assert (list(layers[2].bottom), list(layers[2].top), list(layers[3].bottom)) == (["fc1"], ["fc1"], ["fc1"])


def test_the_last_layer_computes_the_probabilities_of_the_loss():
    layers = [("fc1", nn.Linear(3, 4))]
    assert deploy_net(layers, "Small", (1, 1)).layer[-1].type == "Softmax"
    assert deploy_net(layers, "Small", (1, 1), "Sigmoid").layer[-1].type == "Sigmoid"


@pytest.mark.parametrize("layer", [nn.Sigmoid(), nn.MaxPool2d(3, 2), nn.Conv2d(3, 4, 3, dilation=2)])
def test_a_layer_that_caffe_does_not_have_is_named(layer):
    with pytest.raises(UserError, match=r"layer odd \(.*\) can't be exported"):
        deploy_net([("odd", layer)], "Odd", (9, 9))


def test_a_layer_may_have_the_name_of_the_input_or_the_output():
    layers = deploy_net([("data", nn.Linear(3, 4)), ("prob", nn.Linear(4, 2))], "Odd", (1, 1)).layer
    assert [layer.name for layer in layers] == ["data_", "data", "prob", "prob_"]
    assert [list(layer.bottom) for layer in layers] == [[], ["data_"], ["data"], ["prob"]]
