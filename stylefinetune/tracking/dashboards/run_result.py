"""What a dashboard shows of the last test of a run: which classes it confuses, and pictures with their predictions."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """A picture of the test set with its prediction."""

    key: str
    label: str
    predicted: str
    probability: float  # of the predicted class
    true_probability: float  # of the picture's own class
    jpeg: bytes  # a thumbnail; empty if the picture can't be read


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The predictions of the last test."""

    classes: list[str]  # names in label order
    values: dict[str, float]  # such as balanced_accuracy
    confusion: list[list[int]]  # [true class][predicted class], counts
    calibration: list[tuple[int, float, float]]  # of intervals of the probability: count, mean probability, accuracy
    worst: list[Example]  # of each class, the wrong predictions with the highest probability
    best: list[Example]  # of each class, the right predictions with the highest probability
