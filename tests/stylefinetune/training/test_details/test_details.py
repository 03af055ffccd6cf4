import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.data.transforms import Crops
from stylefinetune.distributed.world import World
from stylefinetune.evaluation.metrics import evaluate_predictions
from stylefinetune.training.test_details.details import TestDetails
from tests.programs import python

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
CLASSES = [f"style {number}" for number in range(7)]
COUNT = 40
LOGITS = torch.randn(COUNT, len(CLASSES), generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 6, (COUNT,), generator=torch.Generator().manual_seed(1))  # none of the last class
LABELS[11] = CORRUPT_LABEL


class Entries(list):
    labels = None


# A test set whose rows are in reverse order.
PICTURES = SimpleNamespace(
    entries=Entries(range(COUNT)), order=SimpleNamespace(row=lambda position: COUNT - 1 - position)
)


def batches(world):
    """Yield this rank's slices of batches of 9."""
    crops = Crops(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool), (1, 1))
    for start in range(0, COUNT, 9):
        positions = torch.arange(start, min(start + 9, COUNT))[world.rank :: world.size]
        yield Batch(torch.zeros(len(positions), 1), LABELS[positions], crops, positions, 9)


def run_test(world, iteration=5, pictures=PICTURES, **train):
    details = TestDetails(Config(train=TrainConfig(max_iter=5, **train)), pictures, CLASSES, world)
    details.start(iteration)
    forward = details.watch(lambda batch: LOGITS[batch.positions])
    for batch in batches(world):
        assert torch.equal(forward(batch), LOGITS[batch.positions])
    return details


def test_top5_and_the_accuracy_of_each_class_are_those_of_an_evaluation():
    details = run_test(ALONE)
    values, evaluation = details.values(), evaluate_predictions(details.predictions())
    assert evaluation.count == COUNT - 1, "the corrupt picture does not count"
    assert values.pop("top5") == pytest.approx(evaluation.top5)
    present = {f"class_accuracy/{one.name}": one.recall for one in evaluation.by_class if one.count}
    assert values == pytest.approx(present)
    assert "class_accuracy/style 6" not in values


def test_the_predictions_of_the_last_test_have_the_rows_of_their_pictures():
    predictions = run_test(ALONE).predictions()
    read = [position for position in range(COUNT) if position != 11]
    assert predictions.rows.tolist() == [COUNT - 1 - position for position in read]
    assert np.array_equal(predictions.logits, LOGITS[read].numpy())
    assert predictions.labels.tolist() == LABELS[read].tolist()


@pytest.mark.parametrize(("iteration", "patience", "kept"), [(4, 0, False), (4, 1, True), (5, 0, True)])
def test_only_predictions_that_may_be_the_last_are_kept(iteration, patience, kept):
    assert (run_test(ALONE, iteration, patience=patience).predictions() is not None) == kept


def test_pictures_with_several_labels_have_no_accuracy_by_class():
    several = SimpleNamespace(entries=SimpleNamespace(labels="several"))
    details = run_test(ALONE, pictures=several)
    assert (details.values(), details.predictions()) == ({}, None)


ON_RANKS = """
import json
from stylefinetune.distributed.world import World
from tests.stylefinetune.training.test_details.test_details import run_test

world = World.join()
details = run_test(world)
values, predictions = details.values(), details.predictions()
if world.is_main:
    print(json.dumps([values, predictions.rows.tolist(), predictions.labels.tolist(), predictions.logits.tolist()]))
world.shutdown()
"""


def test_two_ranks_have_the_values_of_one():
    done = python("-c", ON_RANKS, ranks=2)
    assert done.returncode == 0, done.stderr
    alone = run_test(ALONE)
    predictions = alone.predictions()
    expected = (alone.values(), *(getattr(predictions, name).tolist() for name in ("rows", "labels", "logits")))
    assert json.loads(done.stdout) == list(expected)
