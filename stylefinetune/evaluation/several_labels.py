"""Computes how good predictions are for pictures with several labels: each class is a separate yes or no."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from stylefinetune.evaluation.average_precision import average_precisions
from stylefinetune.evaluation.metrics import ClassMetrics, wilson_interval, without_nan
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.losses.loss import sum_losses

THRESHOLD = 0.5  # probability from which on a class is predicted


@dataclasses.dataclass(frozen=True)
class LabelEvaluation:
    """The quality of predictions for N pictures."""

    count: int
    correct: int  # pictures of which a label has a higher logit than all classes that are no labels
    accuracy: float
    accuracy_interval: tuple[float, float]  # Wilson's interval of 95 %
    loss: float  # mean of the loss with which the network was trained
    mean_average_precision: float  # mean average precision of the classes that have pictures
    macro_f1: float  # mean F1 of these classes
    micro_f1: float  # F1 of all pairs of a picture and a class
    threshold: float  # of the probability, for precision, recall and F1
    by_class: list[ClassMetrics]  # in label order; `correct` are the pictures for which the class is predicted

    def to_json(self) -> dict[str, Any]:
        """Return the values for JSON, which has no NaN: those are None."""
        return without_nan(dataclasses.asdict(self))


def evaluate_labels(predictions: Predictions) -> LabelEvaluation:
    """Return the quality of at least one prediction."""
    several = predictions.several
    assert several is not None
    rows = np.repeat(np.arange(len(predictions)), several.counts)
    is_label = np.zeros(predictions.logits.shape, np.bool_)
    is_label[rows, several.values] = True
    probabilities = predictions.probabilities
    is_predicted = probabilities >= THRESHOLD
    counts, predicted, hits = (each.sum(axis=0) for each in (is_label, is_predicted, is_label & is_predicted))
    areas = average_precisions(torch.from_numpy(probabilities), torch.from_numpy(is_label))
    by_class = [
        ClassMetrics(name, count, hit, _ratio(hit, guess), _ratio(hit, count), _ratio(2 * hit, count + guess), area)
        for name, count, guess, hit, area in zip(
            predictions.classes, counts.tolist(), predicted.tolist(), hits.tolist(), areas, strict=True
        )
    ]
    present = [metrics for metrics in by_class if metrics.count]
    logits = predictions.logits
    best, best_other = (np.where(shown, logits, -np.inf).max(axis=1) for shown in (is_label, ~is_label))
    correct = int((best > best_other).sum())
    pairs = torch.from_numpy(np.stack([rows, several.values]).astype(np.int64))
    labels = torch.from_numpy(predictions.labels)
    loss = sum_losses(torch.from_numpy(logits).double(), labels, predictions.loss, pairs)
    return LabelEvaluation(
        count=len(predictions),
        correct=correct,
        accuracy=correct / len(predictions),
        accuracy_interval=wilson_interval(correct, len(predictions)),
        loss=float(loss) / len(predictions),
        mean_average_precision=sum(metrics.average_precision for metrics in present) / len(present),
        macro_f1=sum(metrics.f1 for metrics in present) / len(present),
        micro_f1=_ratio(2 * int(hits.sum()), int(counts.sum() + predicted.sum())),
        threshold=THRESHOLD,
        by_class=by_class,
    )


def _ratio(part: int, total: int) -> float:
    return part / total if total else math.nan
