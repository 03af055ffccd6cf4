"""Says how well simple classifiers of a network's features classify the pictures of a test."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from stylefinetune.evaluation.baselines.knn import knn_scores
from stylefinetune.evaluation.baselines.linear_probe import PENALTIES, LinearProbe, choose_penalty, standardize_
from stylefinetune.evaluation.metrics import wilson_interval

FITS = len(PENALTIES) + 2  # parts of the work


@dataclasses.dataclass(frozen=True)
class Features:
    """What a layer computes for N pictures."""

    values: torch.Tensor  # float32[N, D]
    labels: torch.Tensor  # int64[N]
    layer: str  # its name


@dataclasses.dataclass(frozen=True)
class Score:
    """The quality of a classifier."""

    correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]  # Wilson's interval of 95 %
    top5: float  # the share of pictures whose class is among the five with the highest scores


@dataclasses.dataclass(frozen=True)
class Baselines:
    """The quality of classifiers of the features of a layer."""

    split: str  # of the training pictures
    pictures: int  # training pictures
    available: int  # pictures of the split, from which they are drawn
    layer: str
    dimensions: int  # number of features
    count: int  # test pictures
    neighbours: int
    penalty: float  # of the linear probe
    knn: Score
    linear_probe: Score

    def to_json(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The place of each test picture's class among the classes by score, int64[T]; 1 is a correct prediction."""

    knn: torch.Tensor
    linear_probe: torch.Tensor
    penalty: float  # of the linear probe


def rank_by_baselines(
    train: Features, test: Features, classes: int, seed: int, device: torch.device, on_fit: Callable[[], object]
) -> Ranks:
    """Classify the test pictures; this changes the features of both.

    Args:
        train: of at least two pictures.
        test: of the pictures to classify.
        classes: number of classes.
        seed: of the draw of pictures that choose the penalty.
        device: where to compute.
        on_fit: called FITS times, after each part of the work.
    """
    knn = knn_scores(train.values, train.labels, test.values, classes, device)
    on_fit()
    standardize_(train.values, test.values)
    dimensions, rows = train.values.shape[1], torch.arange(len(train.labels))
    penalty = choose_penalty(LinearProbe(dimensions, classes, device), train.values, train.labels, seed, on_fit)
    probe = LinearProbe(dimensions, classes, device)
    probe.fit(train.values, train.labels, rows, penalty)
    on_fit()
    return Ranks(_ranks(knn, test.labels), _ranks(probe.scores(test.values), test.labels), penalty)


def score_ranks(ranks: torch.Tensor) -> Score:
    """Return the quality of a classifier from the places of the true classes, int64[T]."""
    correct, count = int((ranks == 1).sum()), len(ranks)
    return Score(correct, correct / count, wilson_interval(correct, count), float((ranks <= 5).double().mean()))


def _ranks(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the places; of classes with equal scores the true one is last, as in `Predictions`."""
    return (scores >= scores.gather(1, labels[:, None])).sum(dim=1)
