"""Tests a trained network from Python."""

import dataclasses
from pathlib import Path

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.evaluation.baselines.baselines import Baselines
from stylefinetune.evaluation.metrics import Evaluation
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.evaluation.several_labels import LabelEvaluation
from stylefinetune.evaluation.suspects import Suspects, find_suspects
from stylefinetune.testing.baselines import BaselineTest
from stylefinetune.testing.test_set import TestSet, Views, evaluate_all


@dataclasses.dataclass(frozen=True)
class Result:
    """What a test has found.

    Attributes:
        metrics: accuracy, loss, mean average precision, confusion matrix, and so on; to_json gives all of them.
        predictions: the logits and the label of each picture, in the order of the index.
        classes: class names in label order.
        baselines: the accuracy of simple classifiers of the network's features; None if it was not asked for.
    """

    metrics: Evaluation | LabelEvaluation
    predictions: Predictions
    classes: list[str]
    baselines: Baselines | None = None

    def suspects(self) -> Suspects:
        """Return the pictures whose label is probably wrong, if the network was not trained on them.

        Raises:
            UserError: the pictures have several labels.
        """
        if self.predictions.several is not None:
            raise UserError("suspects are found among pictures with one label, and these have several")
        return find_suspects(self.predictions)


def evaluate(
    checkpoint: str | Path,
    data: str | Path | None,
    split: str | None,
    *,
    crops: int,
    flip: bool,
    ema: bool,
    baselines: str | None,
    baseline_pictures: int,
) -> Result:
    """See `stylefinetune.evaluate`."""
    saved = read_checkpoint(Path(checkpoint)).with_weights(ema=ema)
    test = TestSet.open(saved, None if data is None else str(data), split, Views(crops, flip=flip))
    baseline_test = None if baselines is None else BaselineTest.open(test, baselines, baseline_pictures)
    world = World.join(stall_seconds=saved.config.train.stall_seconds)
    predictions = test.predict(world)
    found = baseline_test.run(world) if baseline_test else None
    world.shutdown()
    return Result(evaluate_all(predictions), predictions, test.saved.progress.classes, found)
