"""Computes how good predictions are: overall, by class, and how far their probabilities can be trusted."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from stylefinetune.evaluation.average_precision import average_precisions
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.losses.loss import sum_losses

BINS = 15  # of the probability of the predicted class, for the calibration
_Z = 1.959963984540054  # of the normal distribution, for intervals of 95 %


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """How well one class is recognized; values that don't exist, such as the recall of no pictures, are NaN."""

    name: str
    count: int  # pictures of the class
    correct: int
    precision: float  # the share of the pictures predicted as this class that are of it
    recall: float  # the share of its pictures that are predicted as it
    f1: float  # harmonic mean of both
    average_precision: float  # area under the curve of precision by recall


@dataclasses.dataclass(frozen=True)
class Bin:
    """The pictures whose predicted class has a probability in one of BINS equal intervals."""

    count: int
    confidence: float  # mean probability
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The quality of predictions for N pictures."""

    count: int
    correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]  # Wilson's interval of 95 %
    top5: float  # the share of pictures whose class is among the five with the highest logits
    loss: float  # mean of the loss with which the network was trained
    balanced_accuracy: float  # mean recall of the classes that have pictures
    macro_f1: float  # mean F1 of these classes
    mean_average_precision: float  # mean average precision of these classes
    calibration_error: float  # expected calibration error: mean of |confidence - accuracy| over the bins, by count
    by_class: list[ClassMetrics]  # in label order
    confusion: list[list[int]]  # [true class][predicted class], counts
    calibration: list[Bin]

    def to_json(self) -> dict[str, Any]:
        """Return the values for JSON, which has no NaN: those are None."""
        return without_nan(dataclasses.asdict(self))

    def most_confused(self, limit: int) -> list[tuple[str, str, int, int]]:
        """Return (true class, predicted class, count, pictures of the true class) of the most frequent mistakes."""
        names = [metrics.name for metrics in self.by_class]
        pairs = [
            (names[true], names[predicted], count, self.by_class[true].count)
            for true, row in enumerate(self.confusion)
            for predicted, count in enumerate(row)
            if true != predicted and count
        ]
        return sorted(pairs, key=lambda pair: -pair[2])[:limit]


def evaluate_predictions(predictions: Predictions) -> Evaluation:
    """Return the quality of at least one prediction, for pictures with one label."""
    # The import takes a second, and few commands need it.
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # noqa: PLC0415

    probabilities = torch.from_numpy(predictions.probabilities)
    labels = torch.from_numpy(predictions.labels)
    # Its check of the arguments refuses a single class.
    confusion = multiclass_confusion_matrix(probabilities, labels, len(predictions.classes), validate_args=False)
    is_label = labels[:, None] == torch.arange(len(predictions.classes))
    counts = confusion.sum(dim=1)
    by_class = [
        ClassMetrics(name, int(count), int(hits), float(precision), float(hits / count), float(f1), area)
        for name, count, hits, precision, f1, area in zip(
            predictions.classes,
            counts,
            confusion.diag(),
            confusion.diag() / confusion.sum(dim=0),
            2 * confusion.diag() / (confusion.sum(dim=0) + counts),
            average_precisions(probabilities, is_label),
            strict=True,
        )
    ]
    ranks = predictions.rank_of_truth
    correct = int((ranks == 1).sum())
    calibration = _calibration(predictions)
    present = [metrics for metrics in by_class if metrics.count]
    return Evaluation(
        count=len(predictions),
        correct=correct,
        accuracy=correct / len(predictions),
        accuracy_interval=wilson_interval(correct, len(predictions)),
        top5=float((ranks <= 5).mean()),
        loss=float(sum_losses(torch.from_numpy(predictions.logits).double(), labels, predictions.loss))
        / len(predictions),
        balanced_accuracy=_mean([metrics.recall for metrics in present]),
        macro_f1=_mean([metrics.f1 for metrics in present]),
        mean_average_precision=_mean([metrics.average_precision for metrics in present]),
        calibration_error=sum(b.count * abs(b.confidence - b.accuracy) for b in calibration if b.count)
        / len(predictions),
        by_class=by_class,
        confusion=confusion.tolist(),
        calibration=calibration,
    )


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share; Wilson, "Probable Inference" (1927)."""
    share, scale = correct / count, 1 + _Z**2 / count
    centre = (share + _Z**2 / (2 * count)) / scale
    margin = _Z / scale * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, centre - margin), min(1.0, centre + margin)


def _calibration(predictions: Predictions) -> list[Bin]:
    """Return the reliability diagram of Guo et al., "On Calibration of Modern Neural Networks" (2017)."""
    probabilities = predictions.probabilities
    confidence = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == predictions.labels
    number = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    with np.errstate(invalid="ignore"):  # empty bins have no mean
        confidences = np.bincount(number, confidence, BINS) / counts
        accuracies = np.bincount(number, is_correct, BINS) / counts
    return [Bin(*values) for values in zip(counts.tolist(), confidences.tolist(), accuracies.tolist(), strict=True)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def without_nan(value: Any) -> Any:  # noqa: ANN401 -- any value of JSON
    """Return a value with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
