import json
import math

import numpy as np
import pytest

from shards.format.columns import Lists
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.evaluation.several_labels import evaluate_labels
from stylefinetune.evaluation.table import describe_labels

NAMES = ["a", "b", "c", "d"]
LABELS = [[0, 1], [1], [0, 1], [1, 3]]
LOGITS = [[1, 2, -1, -2], [3, 1, -1, -2], [-1, 2, -3, -2], [-1, -2, 1, -3]]  # predicted: a b, a b, b, c


@pytest.fixture
def evaluation():
    several = Lists(np.cumsum([0, *map(len, LABELS)]), np.concatenate(LABELS))
    labels = np.array([each[0] for each in LABELS])
    found = Predictions(np.arange(4), labels, np.array(LOGITS, np.float32), NAMES, "bce", several)
    assert evaluate_labels(found.first(2)).count == 2
    return evaluate_labels(found)


def test_each_class_is_a_separate_yes_or_no(evaluation):
    a, b, c, d = evaluation.by_class
    assert [(each.count, each.correct) for each in (a, b, c, d)] == [(2, 1), (4, 3), (0, 0), (1, 0)]
    assert [each.recall for each in (a, b, d)] == [0.5, 0.75, 0]
    assert math.isnan(c.recall)
    assert [each.precision for each in (a, b, c)] == [0.5, 1, 0]
    assert math.isnan(d.precision)
    assert [each.f1 for each in (a, b, c, d)] == pytest.approx([0.5, 6 / 7, 0, 0])
    assert evaluation.macro_f1 == pytest.approx((0.5 + 6 / 7 + 0) / 3)
    assert evaluation.micro_f1 == pytest.approx(2 * 4 / (7 + 6))
    assert evaluation.mean_average_precision == pytest.approx(np.mean([(1 / 2 + 2 / 4) / 2, 1, 1 / 4]))


def test_a_picture_is_correct_if_its_most_probable_class_is_a_label(evaluation):
    assert (evaluation.correct, evaluation.count, evaluation.accuracy) == (2, 4, 0.5)  # the first and the third


def test_the_loss_is_that_of_the_training(evaluation):
    logits, is_label = np.array(LOGITS), np.array([[label in row for label in range(4)] for row in LABELS])
    expected = (np.logaddexp(0, logits) - logits * is_label).mean()
    assert evaluation.loss == pytest.approx(expected, rel=1e-12)


def test_the_text_and_the_json_have_what_makes_sense(evaluation):
    text = list(describe_labels(evaluation))
    assert text[0] == f"mean average precision = {evaluation.mean_average_precision:.4f}"
    rows = [line.split() for line in text[text.index("") + 2 :][:3]]
    assert [row[:3] for row in rows] == [["d", "1", "0.000"], ["a", "2", "0.500"], ["b", "4", "0.750"]]
    assert "one of their labels" in text[-2]
    stored = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert stored["by_class"][3]["precision"] is None
    assert not {"confusion", "calibration", "top5", "balanced_accuracy"} & stored.keys()
