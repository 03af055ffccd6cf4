import dataclasses

import numpy as np
import pytest

from stylefinetune.config.schema import Config
from stylefinetune.config.train import TrainConfig
from stylefinetune.errors import UserError
from stylefinetune.losses.class_weights import balanced_weights, resolve_class_weights

LABELS = np.array([0, 0, 0, 2, 2, 3])


def config(weights):
    return Config(train=TrainConfig(class_weights=weights))


def test_balanced_weights_are_inversely_proportional_to_the_number_of_pictures():
    weights = np.array(balanced_weights(LABELS, 5))
    assert weights.tolist() == pytest.approx([6 / 9, 0, 6 / 6, 6 / 3, 0])
    assert weights[LABELS].mean() == pytest.approx(1)
    by_class = [weights[label] * (label == LABELS).sum() for label in (0, 2, 3)]
    assert by_class == pytest.approx([2, 2, 2])


def test_balanced_weights_become_numbers_and_given_ones_stay():
    resolved = resolve_class_weights(config("balanced"), LABELS, 5)
    assert resolved.train.class_weights == balanced_weights(LABELS, 5)
    assert resolve_class_weights(resolved, LABELS, 5) == resolved
    assert resolve_class_weights(config(None), LABELS, 5) == config(None)


def test_the_number_of_weights_must_be_that_of_the_classes():
    given = config((1.0, 2.0))
    given = dataclasses.replace(given, data=dataclasses.replace(given.data, shards="data/mine"))
    with pytest.raises(UserError, match=r"train.class_weights has 2 values, data/mine has 5 classes; give one for"):
        resolve_class_weights(given, LABELS, 5)
