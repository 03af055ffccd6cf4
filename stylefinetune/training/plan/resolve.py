"""Resolves what the config leaves open, such as the order of the pictures."""

import dataclasses
import glob
import math

from torch import nn

from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.config.optim import CAFFE_SGD, LayerRule, OptimConfig
from stylefinetune.config.schema import CAFFENET, CAFFENET_DROPOUT, Config
from stylefinetune.errors import UserError
from stylefinetune.models.architectures import classifier_layers
from stylefinetune.models.batch_norm import has_batch_norm


def resolve_order(config: Config, resumed: Checkpoint | None) -> Config:
    """Decide data.shuffle if it is not set: a resumed run keeps its order, a new run shuffles."""
    data = config.data
    if data.shuffle is not None:
        return config
    needs_shuffle = data.shuffle_window > 0 or data.balanced
    keeps_list_order = resumed is not None and resumed.config.data.shuffle is False and not needs_shuffle
    return dataclasses.replace(config, data=dataclasses.replace(data, shuffle=not keeps_list_order))


def resolve_memory_format(config: Config, resumed: Checkpoint | None) -> Config:
    """Decide train.channels_last if it is not set: a resumed run keeps its memory format, a new run has it on."""
    train = config.train
    if train.channels_last is not None:
        return config
    channels_last = resumed is None or resumed.config.train.channels_last is not False
    return dataclasses.replace(config, train=dataclasses.replace(train, channels_last=channels_last))


def resolve_dropout(config: Config) -> Config:
    """Set model.dropout of CaffeNet if it is not set: the checkpoints of earlier versions have the value."""
    model = config.model
    if model.arch != CAFFENET or model.dropout is not None:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(model, dropout=CAFFENET_DROPOUT))


def resolve_batch_norm(config: Config, net: nn.Module, resumed: Checkpoint | None) -> Config:
    """Decide model.batch_norm if it is not set and the network has such layers.

    A resumed run keeps its mode. A new run keeps the statistics of pretrained weights; random weights have none.

    Raises:
        UserError: it is set, and the network has no such layers.
    """
    mode, model = config.model.batch_norm, config.model
    if not has_batch_norm(net):
        if mode is not None:
            raise UserError(f"model.batch_norm is {mode}, but {model.arch} has no batch normalization; remove it")
        return config
    if mode is None:
        saved = resumed.config.model.batch_norm if resumed else None
        mode = saved or ("eval" if config.weights else "train")
    return dataclasses.replace(config, model=dataclasses.replace(model, batch_norm=mode))


def resolve_layers(config: Config, net: nn.Module) -> Config:
    """Complete optim.layers of a recipe that isn't Caffe's, so that the rules do not depend on Caffe's habits.

    Biases have the rate of their layer's weights. The default rule applies to the network's classifier layers with
    Caffe's SGD, and to no layer with another optimizer.
    """
    model, optim = config.model, config.optim
    is_caffe_sgd, rules = optim.optimizer == CAFFE_SGD, optim.layers
    if model.arch == CAFFENET and is_caffe_sgd:
        return config
    if rules == OptimConfig().layers:
        names = classifier_layers(net) if is_caffe_sgd else ()
        rules = tuple(dataclasses.replace(rules[0], match=glob.escape(name)) for name in names)
    if all(rule.match != "*" for rule in rules):
        rules = (*rules, LayerRule(match="*"))
    rules = tuple(
        dataclasses.replace(rule, bias_lr_mult=rule.lr_mult) if rule.bias_lr_mult is None else rule for rule in rules
    )
    return dataclasses.replace(config, optim=dataclasses.replace(optim, layers=rules))


def resolve_length(config: Config, pictures: int) -> Config:
    """Replace train.epochs, each of `pictures` pictures, by the number of iterations, rounded up."""
    train = config.train
    if train.epochs is None:
        return config
    iterations = train.epochs * pictures / config.pictures_per_iteration
    max_iter = max(1, math.ceil(round(iterations, 6)))  # 1.1 epochs of 1,000 pictures are 1100.0000000000002
    return dataclasses.replace(config, train=dataclasses.replace(train, max_iter=max_iter, epochs=None))
