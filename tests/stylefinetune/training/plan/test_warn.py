import dataclasses

import numpy as np
import pytest

from shards.format.order import DataOrder
from stylefinetune.config.cli import dump_config, load_config
from stylefinetune.config.data import DataConfig
from stylefinetune.config.deepspeed import DeepSpeedConfig
from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.config.schema import ModelConfig, TrainConfig
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.training.plan.warn import order_warning, warn_of_settings
from tests.drawn_checkpoints import CONFIG
from tests.stylefinetune.data.loading import open_pictures


def warnings(pictures=2000, **settings):
    return list(warn_of_settings(dataclasses.replace(CONFIG, **settings), pictures))


def test_settings_that_cannot_do_what_they_are_meant_for_get_a_warning():
    batch = CONFIG.data.batch_size
    assert warnings() == warnings(pictures=batch) == []
    assert warnings(optim=OptimConfig(base_lr=0)) == ["optim.base_lr is 0, so the weights do not change"]
    (line,) = warnings(optim=OptimConfig(warmup_iter=9), train=TrainConfig(max_iter=9))
    assert line.startswith(
        "optim.warmup_iter is 9 and the run has 9 iterations, so the learning rate rises until the end;"
    )
    assert warnings(optim=OptimConfig(warmup_iter=8), train=TrainConfig(max_iter=9)) == []
    (line,) = warnings(pictures=2 * batch - 1, train=TrainConfig(iter_size=2))
    assert line.startswith(f"an iteration reads {2 * batch} pictures, more than the {2 * batch - 1} of an epoch, ")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"data": DataConfig(mean_value=(0.5, 0.4, 0.4))}, "data.mean_value is [0.5, 0.4, 0.4]; it is for values"),
        ({"data": DataConfig(scale=0)}, "data.scale is 0, so all inputs are 0"),
        ({"optim": OptimConfig(layers=(LayerRule("*", lr_mult=-1),))}, "optim.layers has a negative multiplier"),
        ({"optim": OptimConfig(layers=(LayerRule("*", bias_lr_mult=-1),))}, "optim.layers has a negative multiplier"),
        ({"model": ModelConfig(drop_path=0.1)}, "model.drop_path has no effect on caffenet"),
    ],
)
def test_likely_mistakes_get_a_warning_and_checkpoints_that_have_them_stay_readable(tmp_path, settings, line):
    (found,) = warnings(**settings)
    assert found.startswith(line)
    stored = tmp_path / "config.yaml"
    stored.write_text(dump_config(dataclasses.replace(CONFIG, **settings)))
    assert warnings(**{name: getattr(load_config(stored), name) for name in settings}) == [found]


def test_settings_of_an_engine_that_is_not_used_get_a_warning():
    stage = DeepSpeedConfig(zero_stage=2)
    assert warnings(deepspeed=stage) == ["the settings of deepspeed have no effect without --engine deepspeed"]
    assert warnings(deepspeed=stage, engine="deepspeed") == []


def read_in_order(pixel_shards, labels, *, shuffle=False, window=0):
    pictures: PictureDataset = open_pictures(pixel_shards, shuffle=shuffle, shuffle_window=window)
    pictures.entries = dataclasses.replace(pictures.entries, label=np.array(labels))
    pictures.order = DataOrder(len(labels), shuffle, seed=7, window=pictures.order.window)
    return order_warning(pictures, ("cat", "dog"))


def test_pictures_sorted_by_class_get_a_warning(pixel_shards):
    assert read_in_order(pixel_shards, [0] * 1000 + [1] * 500 + [0]) == (
        "the first 1,000 pictures of an epoch have one class, cat; the network learns little from such batches: "
        "set --data.shuffle true"
    )
    assert read_in_order(pixel_shards, [0] * 300 + [1] * 300).startswith("the list is sorted by class; ")


@pytest.mark.parametrize("labels", [[0, 1] * 600, [0] * 999 + [1, 0] * 50], ids=["mixed", "both"])
def test_other_orders_get_none(pixel_shards, labels):
    assert read_in_order(pixel_shards, labels) is None


def test_a_single_class_gets_a_warning(pixel_shards):
    for shuffle in (False, True):
        assert read_in_order(pixel_shards, [1] * 2000, shuffle=shuffle) == (
            "all training pictures have one class, dog; a network learns nothing from them"
        )


def test_a_shuffled_sorted_list_gets_none(pixel_shards):
    assert read_in_order(pixel_shards, [0] * 2000 + [1] * 2000, shuffle=True) is None
