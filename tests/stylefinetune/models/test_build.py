import pytest
import torch
from torch import nn

from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError
from stylefinetune.models import build
from tests.stylefinetune.models.caffe_graph import published_nets

NARROW = ModelConfig(widths=(8, 16, 24, 24, 16, 32, 32), last_layer="fc8_mine")


def test_the_network_follows_the_config():
    net = build.build_model(NARROW, 7, [(80, 80), (75, 75)], seed=1)
    assert net(torch.zeros(2, 3, 75, 75)).shape == (2, 7)
    assert net.get_submodule("fc8_mine").out_features == 7


def test_equal_seeds_give_equal_weights():
    one, same, other = (build.build_model(NARROW, 7, [(80, 80)], seed) for seed in (1, 1, 2))
    assert torch.equal(one.get_submodule("fc7").weight, same.get_submodule("fc7").weight)
    assert not torch.equal(one.get_submodule("fc7").weight, other.get_submodule("fc7").weight)


@pytest.mark.parametrize("name", ["conv1", "relu7", "flatten", "drop6", "fc7"])
def test_a_layer_name_in_use_is_refused(name):
    with pytest.raises(UserError, match="the name of another layer; choose another name"):
        build.build_model(ModelConfig(last_layer=name), 7, [(80, 80)], seed=1)


@pytest.mark.parametrize("size", [(38, 80), (80, 20)])
def test_a_too_small_input_is_an_error(size):
    with pytest.raises(UserError, match=r"data\.crop_size makes inputs of \d+x\d+ pixels, too small.*at least 39"):
        build.build_model(NARROW, 7, [size], seed=1)


def test_inputs_that_need_different_layers_are_refused():
    with pytest.raises(UserError, match="80x80 and 227x227 pixels need fully connected layers of different sizes"):
        build.build_model(NARROW, 7, [(80, 80), (227, 227)], seed=1)


def test_a_caffe_net_is_built_from_its_prototxt():
    model = ModelConfig(arch="caffe", prototxt=published_nets.residual(7))
    net = build.build_model(model, 7, [(32, 32), (48, 40)], seed=1)  # global pooling takes any size
    assert net.eval()(torch.zeros(2, 3, 48, 40)).shape == (2, 7)


def test_a_caffe_net_whose_layers_depend_on_the_input_needs_one_size():
    model = ModelConfig(arch="caffe", prototxt=published_nets.vgg16(7, width=4, hidden=16))
    with pytest.raises(UserError, match="inputs of 64x64 and 96x96 pixels need fully connected layers of di"):
        build.build_model(model, 7, [(64, 64), (96, 96)], seed=1)


class Tokens(nn.Module):
    """Like a transformer, it can't reshape an empty batch."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(3, 5)

    def forward(self, pictures):
        return self.scores(pictures.reshape(len(pictures), 3, -1).mean(dim=2))


def test_a_rank_without_pictures_has_no_scores_and_gradients_of_0():
    net, empty = Tokens(), torch.empty(0, 3, 4, 4)
    with pytest.raises(RuntimeError, match="cannot reshape"):
        net(empty)
    scores = build.run_network(net, empty)
    assert scores.shape == (0, 5)
    scores.sum().backward()
    assert [gradient.abs().max() for gradient in (net.scores.weight.grad, net.scores.bias.grad)] == [0, 0]
    pictures = torch.rand(2, 3, 4, 4)
    assert torch.equal(build.run_network(net, pictures), net(pictures))


def test_batch_normalization_over_all_ranks_sees_the_empty_batch():
    """Not a blank picture, which would count in its statistics."""
    seen = []
    net = nn.Sequential(nn.SyncBatchNorm(3), nn.Flatten())
    net.forward = lambda pictures: seen.append(len(pictures)) or pictures
    build.run_network(net, torch.empty(0, 3, 4, 4))
    build.run_network(net.eval(), torch.empty(0, 3, 4, 4))
    assert seen == [0, 1]
