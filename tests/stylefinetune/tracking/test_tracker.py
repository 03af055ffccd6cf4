import json
import re
import time

import pytest
import torch

from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.distributed.world import World
from stylefinetune.errors import RankError
from stylefinetune.tracking.metrics import TestResult
from stylefinetune.tracking.tracker import Tracker
from tests.run_facts import FACTS

RANK_0 = World(rank=0, size=2, device=torch.device("cpu"))
RANK_1 = World(rank=1, size=2, device=torch.device("cpu"))


def config(run_dir):
    return Config(run_dir=str(run_dir), tracking=TrackingConfig(wandb="disabled"))


def log_an_iteration(tracker):
    tracker.log("Solving")
    tracker.log_test_start(0)
    tracker.log_test(0, TestResult(correct=308, count=10000, loss=3.1), {})
    tracker.log_train(0, [3.25728, 3.0], {"lr": 0.001, "lr_x10": 0.01}, 0.0, {"forward_ms": 12.5})
    tracker.advance(0)


def test_numbers_have_six_significant_digits_as_in_caffe(tmp_path):
    with Tracker(config(tmp_path), FACTS, RANK_0, 0, []) as tracker:
        log_an_iteration(tracker)
    lines = [line.split("] ", 1)[1] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert lines[:4] == [
        "Solving",
        "Iteration 0, Testing net (#0)",
        "    Test net output #0: accuracy = 0.0308",
        "    Test net output #1: loss = 3.1 (* 1 = 3.1 loss)",
    ]
    assert lines[4].endswith("s/1 iters), loss = 3.12864")
    assert lines[5:7] == ["    Train net output #0: loss = 3 (* 1 = 3 loss)", "Iteration 0, lr = 0.001"]
    assert lines[7].startswith("    Speed: ")
    caffes = r"Iteration (\d+)|(Train|Test) net output #(\d+): (\S+) = ([\.\deE+-]+)|lr = ([-+]?[0-9]*\.?[0-9]+)"
    assert not re.search(caffes, lines[7])  # what Caffe's tools/extra/parse_log.py looks for
    test, train = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert abs(test.pop("time") - time.time()) < 60
    assert (test.pop("epoch"), test.pop("pictures")) == (0, 0)
    assert test == {"iteration": 0, "phase": "test", "accuracy": 0.0308, "correct": 308, "count": 10000, "loss": 3.1}
    assert (train["loss"], train["lr_x10"], train["data_wait"], train["forward_ms"]) == (3.12864, 0.01, 0.0, 12.5)
    assert train["tflops"] == pytest.approx(train["images_per_second"] * FACTS.flops / 1e12)


def test_only_rank_0_logs(tmp_path, capsys):
    with Tracker(config(tmp_path / "run"), FACTS, RANK_1, 0, []) as tracker:
        log_an_iteration(tracker)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("file", ["metrics.jsonl", "train.log"])
def test_a_full_disk_is_one_line(tmp_path, file):
    if file == "train.log":
        (tmp_path / file).symlink_to("/dev/full")
    with Tracker(config(tmp_path), FACTS, RANK_0, 0, []) as tracker:
        if file == "metrics.jsonl":
            (tmp_path / file).symlink_to("/dev/full")
        with pytest.raises(RankError, match=rf"{file} can't be written \(No space left on device\); free some disk"):
            log_an_iteration(tracker)


def test_wandb_disabled_writes_nothing_of_wandb(tmp_path):
    with Tracker(config(tmp_path), FACTS, RANK_0, 0, []) as tracker:
        log_an_iteration(tracker)
    assert not (tmp_path / "wandb").exists()


def test_the_pause_for_a_checkpoint_is_logged_and_kept_with_it(tmp_path):
    with Tracker(config(tmp_path), FACTS, RANK_0, 0, []) as tracker:
        for iteration in (10, 20):
            tracker.log_checkpoint(iteration, 0.25)
    assert (tmp_path / "train.log").read_text().count("Training paused 0.25 s for the checkpoint") == 2
    with Tracker(config(tmp_path), FACTS, RANK_0, 10, []):
        pass
    (kept,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (kept["iteration"], kept["phase"], kept["pause"]) == (10, "checkpoint", 0.25)


def test_each_entry_says_how_many_pictures_and_epochs_the_training_has_had(tmp_path):
    with Tracker(config(tmp_path), FACTS, RANK_0, 0, []) as tracker:
        for iteration in (0, 30):
            tracker.log_train(iteration, [1.0], {"lr": 0.001}, 0.0, {})
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(entry["pictures"], entry["epoch"]) for entry in entries] == [(0, 0), (1500, 1.5)]
