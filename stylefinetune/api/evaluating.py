"""Tests a trained network from Python."""

import dataclasses
from pathlib import Path

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.distributed.world import World
from stylefinetune.evaluation.metrics import Evaluation
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.evaluation.several_labels import LabelEvaluation
from stylefinetune.testing.test_set import TestSet, Views, evaluate_all


@dataclasses.dataclass(frozen=True)
class Result:
    """What a test has found.

    Attributes:
        metrics: accuracy, loss, mean average precision, confusion matrix, and so on; to_json gives all of them.
        predictions: the logits and the label of each picture, in the order of the index.
        classes: class names in label order.
    """

    metrics: Evaluation | LabelEvaluation
    predictions: Predictions
    classes: list[str]


def evaluate(
    checkpoint: str | Path, data: str | Path | None, split: str | None, *, crops: int, flip: bool, ema: bool
) -> Result:
    """See `stylefinetune.evaluate`."""
    saved = read_checkpoint(Path(checkpoint)).with_weights(ema=ema)
    test = TestSet.open(saved, None if data is None else str(data), split, Views(crops, flip=flip))
    world = World.join(stall_seconds=saved.config.train.stall_seconds)
    predictions = test.predict(world)
    world.shutdown()
    return Result(evaluate_all(predictions), predictions, test.saved.progress.classes)
