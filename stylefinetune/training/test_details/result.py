"""Summarizes the predictions of the last test for a dashboard, with thumbnails of the worst and the best pictures."""

import dataclasses

import numpy as np
import numpy.typing as npt

from stylefinetune.data.dataset import PictureDataset
from stylefinetune.evaluation.metrics import evaluate_predictions
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.evaluation.thumbnails import thumbnail
from stylefinetune.tracking.run_facts import Example, RunResult

_MOST = 200  # pictures, in both tables together
_PER_CLASS = 4  # pictures of each class in a table
_VALUES = ("balanced_accuracy", "macro_f1", "mean_average_precision", "calibration_error")


def summarize(predictions: Predictions, pictures: PictureDataset) -> RunResult:
    """Return the result of at least one prediction."""
    evaluation = evaluate_predictions(predictions)
    right = predictions.rank_of_truth == 1
    return RunResult(
        classes=predictions.classes,
        values={name: getattr(evaluation, name) for name in _VALUES},
        confusion=evaluation.confusion,
        calibration=[dataclasses.astuple(bin_) for bin_ in evaluation.calibration if bin_.count],
        worst=_examples(predictions, pictures, np.flatnonzero(~right)),
        best=_examples(predictions, pictures, np.flatnonzero(right)),
    )


def _examples(predictions: Predictions, pictures: PictureDataset, among: npt.NDArray[np.int64]) -> list[Example]:
    """Return the pictures `among` all whose predicted classes have the highest probabilities, class by class."""
    probabilities = predictions.probabilities
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    shown: dict[int, list[int]] = {}
    for place in among[np.argsort(-confidence[among], kind="stable")].tolist():
        of_class = shown.setdefault(int(predictions.labels[place]), [])
        if len(of_class) < _PER_CLASS:
            of_class.append(place)
    turns = [places[turn] for turn in range(_PER_CLASS) for places in shown.values() if turn < len(places)]
    chosen = sorted(turns[: _MOST // 2], key=lambda place: (predictions.labels[place], -confidence[place]))
    names = predictions.classes
    return [
        Example(
            key=pictures.entries.key[int(predictions.rows[place])],
            label=names[predictions.labels[place]],
            predicted=names[predicted[place]],
            probability=float(confidence[place]),
            true_probability=float(probabilities[place, predictions.labels[place]]),
            jpeg=thumbnail(pictures.entries, int(predictions.rows[place])),
        )
        for place in chosen
    ]
