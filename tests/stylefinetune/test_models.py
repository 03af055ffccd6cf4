import pytest
import torch

from stylefinetune import models
from stylefinetune.config import Config, DataConfig, ModelConfig, TrainConfig
from stylefinetune.errors import UserError

NARROW = ModelConfig(widths=(8, 16, 24, 24, 16, 32, 32), last_layer="fc8_mine")


def config(**data):
    return Config(data=DataConfig(**data), model=NARROW)


def test_the_net_is_the_configs():
    net = models.build(config(image_size=80, crop_size=75), num_classes=7)
    assert net(torch.zeros(2, 3, 75, 75)).shape == (2, 7)
    assert net.get_submodule("fc8_mine").out_features == 7


def test_equal_seeds_give_equal_nets():
    one, same = (models.build(config(image_size=80, crop_size=75), 7) for _ in range(2))
    other = models.build(
        Config(data=DataConfig(image_size=80, crop_size=75), model=NARROW, train=TrainConfig(seed=2)), 7
    )
    assert torch.equal(one.get_submodule("fc7").weight, same.get_submodule("fc7").weight)
    assert not torch.equal(one.get_submodule("fc7").weight, other.get_submodule("fc7").weight)


@pytest.mark.parametrize(
    "data", [{"image_size": 32, "crop_size": 32}, {"crop_size": 38}, {"image_size": 8, "crop_size": 0}]
)
def test_too_small_a_crop_is_one_line(data):
    with pytest.raises(UserError, match=r"data\.crop_size makes inputs of \d+ pixels, too small.*at least 39"):
        models.build(config(**data), 7)


def test_crops_that_need_two_networks_are_refused():
    with pytest.raises(UserError, match="80 and 227"):
        models.build(config(crop_size=80, test_crop_size=227), 7)
