import os

import pytest
import torch

from stylefinetune.config.cli import parse_config
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import sampler_for_testing
from stylefinetune.distributed.world import World
from stylefinetune.training.evaluation import evaluate_batches
from stylefinetune.training.setup import prepare_training
from tests.programs import NARROW, python

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def evaluate(pixel_shards, tmp_path):
    """Evaluates a network that always predicts class 0 on the test pictures."""
    config = parse_config([*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}"])
    pictures = prepare_training(config, ALONE).test_set

    def evaluate(should_stop):
        batches = load_batches(pictures, sampler_for_testing(config, len(pictures.entries), 0, 0, 1), 0, ALONE.device)
        logits = torch.tensor([1.0, 0.0, 0.0, 0.0])
        corrupt = CorruptPictures(pictures, 0.0, [])
        forwards = [lambda batch: logits.expand(len(batch.labels), 4)]
        results = evaluate_batches(forwards, batches, corrupt, ALONE, should_stop)
        return results and results[0]

    evaluate.setup = (config, pictures)
    return evaluate


def test_each_test_picture_is_counted_once(evaluate):
    result = evaluate(lambda: False)
    assert (result.correct, result.count) == (3, 11)  # labels 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2


def test_a_stopped_evaluation_has_no_result(evaluate):
    answers = iter([False, True])
    assert evaluate(lambda: next(answers)) is None


def test_mean_average_precision_is_computed_for_one_label_too_if_it_is_asked_for(evaluate):
    """Of a network that gives the pictures of classes 0 and 1 the scores of their positions."""
    config, pictures = evaluate.setup
    assert evaluate(lambda: False).map is None

    def forward(batch):
        scores = batch.positions.float()
        return torch.stack([scores, -scores, torch.zeros_like(scores), torch.full_like(scores, -9)], dim=1)

    batches = load_batches(pictures, sampler_for_testing(config, 11, 0, 0, 1), 0, ALONE.device)
    corrupt = CorruptPictures(pictures, 0.0, [])
    (result,) = evaluate_batches([forward], batches, corrupt, ALONE, function="bce", with_map=True)
    rising = (1 / 3 + 2 / 7 + 3 / 11) / 3  # label 0 is at the positions 0, 4 and 8 of 11
    falling = (1 / 2 + 2 / 6 + 3 / 10) / 3  # label 1 at 1, 5 and 9
    assert result.map == pytest.approx((rising + falling + 3 / 11 + 2 / 11) / 4)


# The file is a pipe into which nobody writes.
STALLED = """
import sys
from stylefinetune.distributed.world import World
from stylefinetune.training.evaluation import exit_if_lost
world = World.alone(stall_seconds=0.1)
with exit_if_lost(world):
    world.set_activity("reading a.jpg", 7)
    open(sys.argv[1]).read()
"""


def test_evaluate_and_predict_end_if_a_file_never_arrives(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    done = python("-c", STALLED, tmp_path / "a.jpg")
    assert done.returncode == 5
    assert (
        done.stderr
        == f"error: rank 0 on {os.uname().nodename} has stalled for 0.1 s while reading a.jpg at iteration 7\n"
    )
