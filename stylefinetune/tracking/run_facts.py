"""What the dashboards show of a run besides its settings and metrics: facts, checkpoints, predictions."""

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The data, the network and the world of a run."""

    train_pictures: int
    test_pictures: int
    classes: tuple[str, ...]  # names in label order
    parameters: int  # numbers in the network's weights
    trained_parameters: int  # those in layers that are not frozen
    ranks: int
    device: str  # of rank 0, such as cpu or NVIDIA H100 80GB HBM3
    index: str  # fingerprint of the shards' index
    outcomes: dict[str, int]  # status -> number of URLs of the list; empty if the shards have no outcomes.parquet
    flops: int | None  # floating-point operations of training on one picture, see models.flops; None if unknown
    peak_flops: float | None  # operations a second of all ranks together at their peak; None if unknown
    checkpoint_bytes: int  # of the tensors of a checkpoint
    index_file: Path | None  # the shards' index; None on other ranks than rank 0

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as values of JSON, with the fraction of the URLs whose pictures could be had."""
        facts = dataclasses.asdict(self) | {"classes": list(self.classes)}
        del facts["index_file"]
        if self.outcomes:
            facts["kept_urls"] = self.outcomes.get("kept", 0) / sum(self.outcomes.values())
        return facts


@dataclasses.dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint of the run."""

    path: Path
    iteration: int
    test: dict[str, float]  # iteration, accuracy and loss of its test; empty if it is not tested
    is_best: bool  # of those that are kept


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
