import json
import logging
import socket
import sys
from pathlib import Path

import torch

from stylefinetune.config import Config, TrackingConfig
from stylefinetune.metrics import TestResult
from stylefinetune.tracking import GlogFormatter, Tracker
from stylefinetune.world import World
from tests.programs import run

LEAD = World(rank=0, size=2, device=torch.device("cpu"))
OTHER = World(rank=1, size=2, device=torch.device("cpu"))


def config(run_dir):
    return Config(run_dir=str(run_dir), tracking=TrackingConfig(wandb="disabled"))


def tell(tracker):
    tracker.say("Solving")
    tracker.testing(0)
    tracker.tested(0, TestResult(correct=308, count=10000, loss=3.1))
    tracker.trained(0, [3.25728, 3.0], {"lr": 0.001, "lr_x10": 0.01}, 0.0)
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


def told_to_wandb(run_dir, **account):
    """Tracks a run in a process with this W&B account alone, and returns what W&B's own program reads of it."""
    program = """
import sys, torch
from stylefinetune.config import Config, TrackingConfig
from stylefinetune.metrics import TestResult
from stylefinetune.tracking import Tracker
from stylefinetune.world import World

run_dir, mode = sys.argv[1:]
config = Config(run_dir=run_dir, tracking=TrackingConfig(wandb=mode))
tracker = Tracker(config, World(rank=0, size=1, device=torch.device("cpu")), 0, [])
tracker.testing(0)
tracker.tested(0, TestResult(correct=1, count=4, loss=3.1))
tracker.trained(0, [3.0], {"lr": 0.001, "lr_x10": 0.01}, 0.0)
tracker.close(failed=False)
"""
    home = run_dir.parent / "home"
    env = {
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        "WANDB_CONFIG_DIR": str(home),
        "WANDB_API_KEY": "",
        **account,
    }
    done = run(sys.executable, "-c", program, run_dir, "auto", env=env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    read = run(Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file)
    assert read.returncode == 0, read.stderr
    return read.stdout


def test_without_a_key_the_run_is_kept_offline_and_says_so_once(tmp_path):
    run_dir = tmp_path / "run"
    told = told_to_wandb(run_dir)
    for name in ("train/loss", "train/lr", "train/lr_x10", "test/accuracy", "test/loss", "train/images_per_second"):
        assert name in told
    assert "train/data_wait" in told
    assert "base_lr" in told  # the resolved config
    assert (run_dir / "train.log").read_text().count("no API key, the run is kept offline") == 1
    assert (run_dir / "wandb_id").read_text() in next(run_dir.glob("wandb/offline-run-*")).name


def test_a_server_out_of_reach_never_stops_a_run(tmp_path):
    run_dir = tmp_path / "run"
    with socket.socket() as unused:  # bound but not listening, so that every connection is refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        told = told_to_wandb(run_dir, WANDB_BASE_URL=url, WANDB_API_KEY="0" * 40)
    log = (run_dir / "train.log").read_text()
    assert log.count("Weights & Biases failed") == 1
    assert "trying offline" in log
    assert "Iteration 0, lr = 0.001" in log
    assert "train/loss" in told


def test_wandbs_own_mode_is_heeded(tmp_path):
    told_to_wandb(tmp_path / "run", WANDB_MODE="offline")
    assert "no API key" not in (tmp_path / "run" / "train.log").read_text()


def test_disabled_means_that_nothing_of_wandb_is_there(tmp_path):
    tell(Tracker(config(tmp_path), LEAD, 0, []))
    assert not (tmp_path / "wandb").exists()
