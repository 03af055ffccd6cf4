import dataclasses

import pytest

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.config.schema import Config, ModelConfig, TrainConfig
from stylefinetune.errors import UserError
from stylefinetune.models.build import build_model
from stylefinetune.training.plan.resolve import (
    resolve_batch_norm,
    resolve_dropout,
    resolve_layers,
    resolve_length,
    resolve_memory_format,
    resolve_order,
)
from tests.drawn_checkpoints import CONFIG


def config(**train):
    return dataclasses.replace(CONFIG, train=TrainConfig(**train))


def with_shuffle(shuffle, window=0):
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, shuffle=shuffle, shuffle_window=window))


@dataclasses.dataclass
class Resumed:
    config: Config


@pytest.mark.parametrize(
    ("given", "saved", "expected"),
    [(None, None, True), (None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_a_new_run_shuffles_and_a_resumed_run_keeps_its_order_unless_it_is_changed(given, saved, expected):
    resumed = None if saved is None else Resumed(with_shuffle(saved))
    assert resolve_order(with_shuffle(given), resumed).data.shuffle is expected


@pytest.mark.parametrize(
    ("given", "saved", "expected"),
    [(None, None, True), (None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_a_new_run_is_in_channels_last_and_a_resumed_run_keeps_its_memory_format(given, saved, expected):
    resumed = None if saved is None else Resumed(config(channels_last=saved))
    assert resolve_memory_format(config(channels_last=given), resumed).train.channels_last is expected


def test_a_window_given_at_a_resume_shuffles():
    assert resolve_order(with_shuffle(None, window=2), Resumed(with_shuffle(False))).data.shuffle


@pytest.mark.parametrize(
    ("epochs", "iter_size", "pictures", "iterations"),
    [(1, 1, 1000, 20), (1, 1, 1001, 21), (2.5, 1, 1000, 50), (1.1, 1, 1000, 22), (3, 4, 1000, 15), (0.001, 1, 10, 1)],
)
def test_epochs_become_iterations_rounded_up(epochs, iter_size, pictures, iterations):
    resolved = resolve_length(config(epochs=epochs, iter_size=iter_size), pictures)
    assert (resolved.train.max_iter, resolved.train.epochs) == (iterations, None)


def test_without_epochs_max_iter_stays():
    given = config(max_iter=7)
    assert resolve_length(given, 1000) is given


RESNET = build_model(ModelConfig(arch="resnet18"), 5, [(32, 32)], seed=1)


def with_model(weights=None, **model):
    return dataclasses.replace(CONFIG, weights=weights, model=ModelConfig(**{"arch": "resnet18", **model}))


def test_batch_norm_keeps_the_statistics_of_pretrained_weights_and_of_a_resumed_run():
    def resolved(config, saved=None):
        resumed = None if saved is None else Resumed(with_model(batch_norm=saved))
        return resolve_batch_norm(config, RESNET, resumed).model.batch_norm

    assert resolved(with_model()) == "train"
    assert resolved(with_model("DEFAULT")) == "eval"
    assert resolved(with_model("DEFAULT"), saved="train") == "train"
    assert resolved(with_model("DEFAULT", batch_norm="sync"), saved="train") == "sync"


def test_batch_norm_is_refused_where_there_is_none():
    vgg = build_model(ModelConfig(arch="squeezenet1_1"), 5, [(32, 32)], seed=1)
    config = with_model(arch="squeezenet1_1")
    assert resolve_batch_norm(config, vgg, None) == config
    with pytest.raises(UserError, match="batch_norm is eval, but squeezenet1_1 has no batch normalization; remove it"):
        resolve_batch_norm(with_model(arch="squeezenet1_1", batch_norm="eval"), vgg, None)


def test_caffenets_dropout_is_written_out_as_in_earlier_checkpoints():
    assert resolve_dropout(Config()).model.dropout == 0.5
    assert resolve_dropout(with_model()).model.dropout is None
    assert resolve_dropout(with_model(arch="caffenet", dropout=0.1)).model.dropout == 0.1


def test_caffenet_skips_no_blocks():
    assert resolve_dropout(with_model(arch="caffenet", drop_path=0.0)).model.drop_path == 0


def rules(*layers, arch="resnet18"):
    given = dataclasses.replace(with_model(arch=arch), optim=OptimConfig(layers=layers) if layers else OptimConfig())
    resolved = resolve_layers(given, RESNET)
    assert resolve_layers(resolved, RESNET) == resolved
    return resolved.optim.layers


def test_the_default_rule_applies_to_the_classifier_and_biases_follow_their_layer():
    assert rules() == (LayerRule("fc", 10, bias_lr_mult=10), LayerRule("*", bias_lr_mult=1))
    frozen = LayerRule("layer1*", 0)
    assert rules(frozen) == (dataclasses.replace(frozen, bias_lr_mult=0), LayerRule("*", bias_lr_mult=1))
    all_layers = LayerRule("*", 2, bias_lr_mult=3)
    assert rules(all_layers) == (all_layers,)
    assert rules(arch="caffenet") == OptimConfig().layers


@pytest.mark.parametrize("arch", ["caffenet", "resnet18"])
def test_caffes_habits_are_those_of_caffes_optimizer_only(arch):
    given = dataclasses.replace(with_model(arch=arch), optim=OptimConfig("adamw"))
    assert resolve_layers(given, RESNET).optim.layers == (LayerRule("*", bias_lr_mult=1),)
    own = dataclasses.replace(given, optim=OptimConfig("adamw", layers=(LayerRule("fc*", 5),)))
    resolved = resolve_layers(own, RESNET)
    assert resolved.optim.layers == (LayerRule("fc*", 5, bias_lr_mult=5), LayerRule("*", bias_lr_mult=1))
    assert resolve_layers(resolved, RESNET) == resolved
