import json

import pytest

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.checkpoint.folders import (
    best_checkpoint,
    checkpoint_path,
    find_checkpoint_folder,
    link_best,
    metric_of,
)
from stylefinetune.errors import UserError
from tests.drawn_checkpoints import save


@pytest.fixture
def run_dir(tmp_path):
    """Return the folder of a run with three checkpoints; the second has the best accuracy."""
    tests = [{"iteration": at, "accuracy": accuracy, "loss": 1.0} for at, accuracy in ((5, 0.2), (10, 0.6), (15, 0.3))]
    for iteration in (5, 10, 15):
        path = checkpoint_path(tmp_path, iteration)
        path.mkdir(parents=True)
        (path / "progress.json").write_text(json.dumps({"iteration": iteration, "tests": tests}))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "iteration"),
    [("", 15), (":last", 15), (":best", 10), (":5", 5), (":iter_10", 10), ("/checkpoints/iter_5", 5)],
)
def test_a_checkpoint_is_found_by_name(run_dir, name, iteration):
    assert find_checkpoint_folder(type(run_dir)(f"{run_dir}{name}")) == checkpoint_path(run_dir, iteration)


def test_the_link_says_which_checkpoint_is_the_best(run_dir):
    for iteration in (15, 5):
        link_best(run_dir, checkpoint_path(run_dir, iteration))
        assert find_checkpoint_folder(run_dir.with_name(f"{run_dir.name}:best")) == checkpoint_path(run_dir, iteration)
        assert find_checkpoint_folder(run_dir / "best") == checkpoint_path(run_dir, iteration)
    moved = run_dir.rename(run_dir.with_name("moved"))
    assert find_checkpoint_folder(moved / "best") == checkpoint_path(moved, 5)


def test_without_tests_no_checkpoint_is_the_best(run_dir):
    assert best_checkpoint([checkpoint_path(run_dir, 5)], [], "accuracy") is None


def test_the_earliest_of_equally_good_checkpoints_is_the_best(run_dir):
    found = [checkpoint_path(run_dir, iteration) for iteration in (15, 10, 5)]
    tests = [{"iteration": at, "accuracy": 0.5, "loss": loss} for at, loss in ((5, 2.0), (10, 1.0), (15, 1.0))]
    assert best_checkpoint(found, tests, "accuracy") == found[2]
    assert best_checkpoint(found, tests, "loss") == found[1]


def test_the_average_of_the_weights_decides_if_it_is_tested(run_dir):
    found = [checkpoint_path(run_dir, iteration) for iteration in (10, 5)]
    tests = [
        {"iteration": 5, "accuracy": 0.5, "loss": 1.0, "ema_accuracy": 0.1, "ema_loss": 2.0},
        {"iteration": 10, "accuracy": 0.4, "loss": 1.5, "ema_accuracy": 0.2, "ema_loss": 1.9},
    ]
    assert best_checkpoint(found, tests, "accuracy") == best_checkpoint(found, tests, "loss") == found[0]
    assert metric_of(tests[0], "loss") == 2.0


def test_a_loss_that_is_not_a_number_is_not_the_best(run_dir):
    found = [checkpoint_path(run_dir, iteration) for iteration in (10, 5)]
    tests = [{"iteration": 5, "accuracy": 0.1, "loss": float("nan")}, {"iteration": 10, "accuracy": 0.1, "loss": 9.0}]
    assert best_checkpoint(found, tests, "loss") == found[0]
    assert best_checkpoint(found, tests[:1], "loss") is None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (":best", "a run's folder with a tested checkpoint"),
        (":7", "a run's folder with a checkpoint called '7'"),
        (":newest", "a run's folder with a checkpoint called 'newest'"),
        ("/nowhere:last", "nowhere:last is neither a checkpoint nor a run's folder with a checkpoint"),
    ],
)
def test_a_missing_checkpoint_is_one_line(tmp_path, name, line):
    save(tmp_path)
    with pytest.raises(UserError, match=line):
        read_checkpoint(type(tmp_path)(f"{tmp_path}{name}"))
