import dataclasses

import pytest

from stylefinetune.config.schema import Config
from stylefinetune.config.train import TrainConfig
from stylefinetune.data.dataset import open_index
from stylefinetune.errors import UserError
from stylefinetune.losses.several_labels import check_loss, check_several_labels
from tests.stylefinetune.data.loading import data_config


def test_the_softmax_is_for_one_label(label_shards, pixel_shards):
    one, several = (open_index(data_config(shards)) for shards in (pixel_shards, label_shards))
    check_loss("softmax", one)
    check_loss("bce", one)
    check_loss("bce", several)
    with pytest.raises(UserError, match=r"have several labels, but train.loss softmax .*; train with train.loss: bce"):
        check_loss("softmax", several)


def test_settings_for_one_label_are_refused_by_name(label_shards, pixel_shards):
    one, several = (open_index(data_config(shards)) for shards in (pixel_shards, label_shards))
    plain = Config(train=TrainConfig(loss="bce"))
    check_several_labels(plain, several)
    balanced = dataclasses.replace(plain, data=data_config(label_shards, shuffle=True, balanced=True))
    graphed = Config(train=TrainConfig(loss="bce", cuda_graph=True))
    for config, name in ((balanced, "data.balanced"), (graphed, "train.cuda_graph")):
        check_several_labels(config, one)
        with pytest.raises(UserError, match=f"^{name} is for pictures with one label, but those of .*; remove it$"):
            check_several_labels(config, several)
