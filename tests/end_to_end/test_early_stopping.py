"""A run that stops before its last iteration, since its tests do not improve any more."""

import json
import shutil

import pytest

from stylefinetune.checkpoint.folders import find_checkpoint_folder
from tests.programs import NARROW, metrics, train_on

FLAGS = [*NARROW, "--train.max_iter=40", "--train.test_interval=2", "--checkpoint.snapshot=5", "--train.patience=3"]
FROZEN = "--optim.base_lr=1e-30"  # so that no test is better than the first one


def checkpoints(run_dir):
    return sorted(int(path.name.removeprefix("iter_")) for path in (run_dir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def stopped(pixel_shards, tmp_path_factory):
    """A run on two ranks that stops after tests at 0, 2, 4 and 6."""
    run_dir = tmp_path_factory.mktemp("early") / "run"
    done = train_on(2, *FLAGS, FROZEN, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr
    assert "Early stopping: the best accuracy is" in done.stderr
    assert "Optimization Done" in done.stderr
    return run_dir


def test_the_run_ends_as_finished_with_a_checkpoint(stopped):
    assert [entry["iteration"] for entry in metrics(stopped, "test")] == [0, 2, 4, 6]
    assert checkpoints(stopped) == [5, 6]
    assert json.loads((stopped / "exit.json").read_text())["reason"] == "finished"


def test_a_resumed_run_stops_at_the_same_iteration(stopped, pixel_shards, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(stopped, run_dir, symlinks=True)
    shutil.rmtree(run_dir / "checkpoints" / "iter_6")
    done = train_on(1, *FLAGS, FROZEN, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr
    assert checkpoints(run_dir) == [5, 6]


def test_a_stopped_run_that_is_started_again_trains_nothing_unless_it_has_more_patience(
    stopped, pixel_shards, tmp_path
):
    run_dir = tmp_path / "run"
    shutil.copytree(stopped, run_dir, symlinks=True)
    flags = [*FLAGS, FROZEN, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}"]
    again = train_on(1, *flags)
    assert again.returncode == 0, again.stderr
    assert "to continue this run, raise train.patience" in again.stderr
    assert checkpoints(run_dir) == [5, 6]
    changed = train_on(1, *flags, "--optim.base_lr=0.5")
    assert changed.returncode == 2
    assert "nothing would be trained with the changed settings: optim.base_lr changes" in changed.stderr
    more = train_on(1, *flags, "--train.patience=4")
    assert more.returncode == 0, more.stderr
    assert checkpoints(run_dir) == [5, 6, 8]


def test_the_weights_of_the_best_test_are_saved_between_the_snapshots(pixel_shards, tmp_path):
    flags = [*NARROW, "--train.max_iter=12", "--train.test_interval=2", "--checkpoint.snapshot=0"]
    flags += [
        "--train.patience=50",
        "--checkpoint.best_metric=loss",
        "--checkpoint.keep_last=1",
        "--train.test_initialization=false",
    ]
    done = train_on(1, *flags, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    tested = metrics(tmp_path, "test")
    best = min(tested, key=lambda entry: entry["loss"])["iteration"]
    assert best > 0
    assert checkpoints(tmp_path) == sorted({best, 12})
    assert find_checkpoint_folder(tmp_path / "best").name == f"iter_{best}"


def test_patience_needs_tests(tmp_path):
    done = train_on(1, "--train.patience=2", "--data.test.split=", f"--run_dir={tmp_path}")
    assert done.returncode == 2
    assert "train.patience is 2, but data.test.split is empty, so that there are no tests" in done.stderr
