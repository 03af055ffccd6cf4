import dataclasses

import cv2
import numpy as np
import pytest

from shards.format.index import ShardIndex
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.training.test_details import result as module
from stylefinetune.training.test_details.result import summarize


@pytest.fixture(scope="module")
def pictures(pixel_shards):
    return PictureDataset(ShardIndex.load(pixel_shards).entries("test"), Config().data.phase(training=False), seed=0)


@pytest.fixture(scope="module")
def predictions(pictures):
    """Each third picture is taken for the next class; the later a picture, the more confident."""
    labels = np.asarray(pictures.entries.label, np.int64)
    rows = np.arange(len(labels))
    taken = np.where(rows % 3 == 0, (labels + 1) % 4, labels)
    logits = np.zeros((len(labels), 4), np.float32)
    logits[rows, taken] = 1 + rows
    return Predictions(rows, labels, logits, ["a", "b", "c", "d"])


def test_the_worst_and_the_best_of_each_class_have_a_thumbnail(pictures, predictions):
    result = summarize(predictions, pictures)
    assert sum(map(sum, result.confusion)) == len(predictions)
    assert sum(count for count, _, _ in result.calibration) == len(predictions)
    assert {"balanced_accuracy", "calibration_error"} <= result.values.keys()
    for one in result.worst:
        assert one.predicted == "abcda"["abcd".index(one.label) + 1]
        assert one.true_probability < one.probability
    assert all(one.predicted == one.label for one in result.best)
    assert {one.label for one in result.best} == {"a", "b", "c", "d"}
    for some in (result.worst, result.best):
        assert [one.label for one in some] == sorted(one.label for one in some)
        for label in {one.label for one in some}:
            shown = [one.probability for one in some if one.label == label]
            assert shown == sorted(shown, reverse=True)
            assert len(shown) <= 4
    for one in [*result.worst, *result.best]:
        assert cv2.imdecode(np.frombuffer(one.jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (48, 48, 3)


def test_the_number_of_pictures_is_limited_and_every_class_has_its_turn(pictures, predictions, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 8)
    result = summarize(predictions, pictures)
    assert [one.label for one in result.best] == ["a", "b", "c", "d"]


def test_a_picture_that_cannot_be_read_has_no_thumbnail(pictures, predictions, tmp_path):
    gone = PictureDataset(dataclasses.replace(pictures.entries, root=tmp_path), pictures.phase, seed=0)
    assert {one.jpeg for one in summarize(predictions, gone).best} == {b""}
