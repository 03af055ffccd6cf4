"""Weighs the classes in the loss, by numbers that are given or by how many training pictures each class has."""

import dataclasses

import numpy as np

from shards.format import counted
from shards.format.columns import Integers
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError


def resolve_class_weights(config: Config, labels: Integers, classes: int) -> Config:
    """Replace train.class_weights `balanced` by numbers, from the labels of the training pictures.

    Raises:
        UserError: there are not as many weights as classes.
    """
    weights = config.train.class_weights
    if weights == "balanced":
        weights = balanced_weights(labels, classes)
        return dataclasses.replace(config, train=dataclasses.replace(config.train, class_weights=weights))
    if weights is not None and len(weights) != classes:
        found = f"train.class_weights has {counted(len(weights), 'value')}, {config.data.shards} has"
        raise UserError(f"{found} {counted(classes, 'class')}; give one for each class, in label order, or balanced")
    return config


def balanced_weights(labels: Integers, classes: int) -> tuple[float, ...]:
    """Return N / (C * count) for each class: the mean weight of the N pictures is 1, and each class counts the same.

    C is the number of classes that have pictures; the weight of the others is 0.
    """
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return tuple(len(labels) / (present * count) if count else 0.0 for count in counts.tolist())
