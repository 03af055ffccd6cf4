import json

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from stylefinetune.evaluation.metrics import BINS, evaluate_predictions, wilson_interval
from stylefinetune.evaluation.predictions import Predictions


def predictions(logits, labels, classes=None):
    array = np.array(logits, np.float32)
    names = classes or [f"class {number}" for number in range(array.shape[1])]
    return Predictions(np.arange(len(array)), np.array(labels, np.int64), array, names)


@pytest.fixture(scope="module")
def many():
    """Return predictions for 500 pictures of 7 classes, one of which has none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 500)
    logits = rng.normal(size=(500, 7)) + 1.5 * np.eye(7)[labels]
    return predictions(logits, labels)


def test_a_small_example_by_hand():
    # Classes a, b and c; the pictures are a, a, b, b and b.
    logits = [[3, 1, 0], [0, 1, 0], [0, 2, 1], [5, 0, 1], [0, 4, 1]]
    evaluation = evaluate_predictions(predictions(logits, [0, 0, 1, 1, 1], ["a", "b", "c"]))
    assert (evaluation.count, evaluation.correct) == (5, 3)
    assert evaluation.confusion == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    a, b, c = evaluation.by_class
    assert (a.count, a.correct, a.precision, a.recall, a.f1) == (2, 1, 0.5, 0.5, 0.5)
    assert (b.count, b.correct) == (3, 2)
    assert (b.precision, b.recall, b.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (c.count, c.correct) == (0, 0)
    assert np.isnan(c.recall)
    assert evaluation.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert evaluation.most_confused(1) == [("a", "b", 1, 2)]


def test_loss_and_ranks_are_those_of_the_logits(many):
    evaluation = evaluate_predictions(many)
    logits, labels = torch.from_numpy(many.logits).double(), torch.from_numpy(many.labels)
    assert evaluation.loss == pytest.approx(float(-logits.log_softmax(1)[torch.arange(500), labels].mean()), rel=1e-12)
    order = logits.argsort(dim=1, descending=True)
    assert evaluation.accuracy == (order[:, 0] == labels).double().mean()
    assert evaluation.top5 == (order[:, :5] == labels[:, None]).any(dim=1).double().mean()


def test_average_precision_is_the_area_under_the_steps_of_precision_by_recall(many):
    for label, metrics in enumerate(evaluate_predictions(many).by_class[:6]):
        hits = (many.labels == label)[np.argsort(-many.probabilities[:, label])]
        precision = hits.cumsum() / np.arange(1, 501)
        assert metrics.average_precision == pytest.approx((precision * hits).sum() / hits.sum(), rel=1e-6)


def test_the_calibration_error_is_that_of_torchmetrics(many):
    evaluation = evaluate_predictions(many)
    expected = multiclass_calibration_error(
        torch.from_numpy(many.probabilities), torch.from_numpy(many.labels), 7, n_bins=BINS
    )
    assert evaluation.calibration_error == pytest.approx(float(expected), abs=1e-6)
    assert sum(part.count for part in evaluation.calibration) == 500
    assert all(number / BINS <= part.confidence <= (number + 1) / BINS for number, part in _full(evaluation))


def _full(evaluation):
    return [(number, part) for number, part in enumerate(evaluation.calibration) if part.count]


def test_a_tie_counts_as_wrong_as_in_caffe():
    evaluation = evaluate_predictions(predictions([[1, 1], [1, 0]], [0, 0]))
    assert evaluation.correct == 1


def test_one_picture_and_one_class_can_be_evaluated():
    for logits, label in (([1.0, 2.0], 1), ([1.0], 0)):
        evaluation = evaluate_predictions(predictions([logits], [label]))
        assert (evaluation.accuracy, evaluation.balanced_accuracy, evaluation.mean_average_precision) == (1, 1, 1)


def test_wilson_intervals():
    # Source: R, prop.test(c(8), c(10), correct = FALSE) and prop.test(0, 20, correct = FALSE).
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611252), abs=1e-6)
    assert wilson_interval(20, 20)[1] == 1


def test_json_has_no_nan(many):
    text = json.dumps(evaluate_predictions(many).to_json(), allow_nan=False)
    assert json.loads(text)["by_class"][6]["recall"] is None
