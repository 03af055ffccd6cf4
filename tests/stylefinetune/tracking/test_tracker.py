import json
import logging
import time

import pytest
import torch

from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.distributed.world import World
from stylefinetune.errors import RankError
from stylefinetune.tracking.metrics import TestResult
from stylefinetune.tracking.tracker import GlogFormatter, Tracker

LEAD = World(rank=0, size=2, device=torch.device("cpu"))
OTHER = World(rank=1, size=2, device=torch.device("cpu"))


def config(run_dir):
    return Config(run_dir=str(run_dir), tracking=TrackingConfig(wandb="disabled"))


def tell(tracker):
    tracker.log("Solving")
    tracker.log_test_start(0)
    tracker.log_test(0, TestResult(correct=308, count=10000, loss=3.1))
    tracker.log_train(0, [3.25728, 3.0], {"lr": 0.001, "lr_x10": 0.01}, 0.0)
    tracker.advance(0)
    tracker.close(failed=False)


def test_a_line_has_glogs_prefix():
    record = logging.LogRecord("x", logging.INFO, "/a/tracking.py", 195, "Optimization %s", ("Done.",), None)
    record.created, record.process = 1409264268.338963, 11510
    line = GlogFormatter().format(record)
    assert line.startswith("I08")
    assert line.endswith(":48.338963 11510 tracking.py:195] Optimization Done.")


def test_numbers_have_six_significant_digits_as_in_caffe(tmp_path):
    tell(Tracker(config(tmp_path), LEAD, 0, []))
    said = [line.split("] ", 1)[1] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert said[:4] == [
        "Solving",
        "Iteration 0, Testing net (#0)",
        "    Test net output #0: accuracy = 0.0308",
        "    Test net output #1: loss = 3.1 (* 1 = 3.1 loss)",
    ]
    assert said[4].endswith("s/1 iters), loss = 3.12864")
    assert said[5:] == ["    Train net output #0: loss = 3 (* 1 = 3 loss)", "Iteration 0, lr = 0.001"]
    test, train = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert abs(test.pop("time") - time.time()) < 60
    assert test == {"iteration": 0, "phase": "test", "accuracy": 0.0308, "correct": 308, "count": 10000, "loss": 3.1}
    assert (train["loss"], train["lr_x10"], train["data_wait"]) == (3.12864, 0.01, 0.0)


def test_only_the_lead_rank_speaks(tmp_path, capsys):
    tell(Tracker(config(tmp_path / "run"), OTHER, 0, []))
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_what_comes_again_is_cut_from_the_metrics(tmp_path):
    entries = [{"iteration": i, "phase": p} for i in (0, 10, 20) for p in ("test", "train")]
    torn = '{"iteration": 30, "pha'
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + torn)
    Tracker(config(tmp_path), LEAD, 10, [0, 20]).close(failed=False)
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept == [
        {"iteration": 0, "phase": "test"},
        {"iteration": 0, "phase": "train"},
        {"iteration": 20, "phase": "test"},
    ]


def test_what_is_no_line_of_the_runs_own_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "phase": "train"}\nnot of it\n')
    with pytest.raises(RankError, match=r"metrics\.jsonl holds a line that isn't the run's own .*; mend it, or move"):
        Tracker(config(tmp_path), LEAD, 10, [])


@pytest.mark.parametrize("file", ["metrics.jsonl", "train.log"])
def test_a_full_disk_is_one_line(tmp_path, file):
    if file == "train.log":
        (tmp_path / file).symlink_to("/dev/full")
    tracker = Tracker(config(tmp_path), LEAD, 0, [])
    if file == "metrics.jsonl":
        (tmp_path / file).symlink_to("/dev/full")
    with pytest.raises(RankError, match=rf"{file} can't be written \(No space left on device\); make room"):
        tell(tracker)
    tracker.close(failed=True)


def test_disabled_means_that_nothing_of_wandb_is_there(tmp_path):
    tell(Tracker(config(tmp_path), LEAD, 0, []))
    assert not (tmp_path / "wandb").exists()


def test_the_pause_for_a_checkpoint_is_told_and_stays_with_it(tmp_path):
    tracker = Tracker(config(tmp_path), LEAD, 0, [])
    for iteration in (10, 20):
        tracker.log_checkpoint(iteration, 0.25)
    tracker.close(failed=False)
    assert (tmp_path / "train.log").read_text().count("Training paused 0.25 s for it") == 2
    Tracker(config(tmp_path), LEAD, 10, []).close(failed=False)
    (kept,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (kept["iteration"], kept["phase"], kept["pause"]) == (10, "checkpoint", 0.25)
