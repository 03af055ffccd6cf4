"""A run of the training command: its metrics, its console, its checkpoints, and the agreement with Caffe."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.caffe_checks import compare_run
from benchmarks.caffe_results import read_micro
from stylefinetune.checkpoint import async_saver
from stylefinetune.checkpoint.checkpoint import save_checkpoint
from stylefinetune.errors import UserError
from stylefinetune.tracking.dashboards.wandb_offline import _records
from tests.programs import NARROW, TWENTY, metrics, python, train


@pytest.mark.parametrize("flags", [[], ["--data.batch_size=5", "--train.iter_size=2"]], ids=["1 batch", "2 batches"])
def test_sixty_iterations_match_caffe(golden, micro, tmp_path, flags):
    """Within 1e-5 at each iteration. Two batches of 5 per update use the same pictures as one batch of 10."""
    start = f"--weights={golden / 'micro' / 'finetune' / 'micro_ft_iter_0'}.caffemodel"
    train(*micro, *flags, start, "--optim.base_lr=0.001", "--checkpoint.snapshot=1", f"--run_dir={tmp_path}")
    rows = list(compare_run(tmp_path, read_micro(golden, "finetune"), "finetune", 1))
    assert not [str(row) for row in rows if not row.holds]


def test_a_run_writes_metrics_and_checkpoints_at_its_intervals(trained):
    tests = metrics(trained, "test")
    assert [entry["iteration"] for entry in tests] == [0, 4, 8, 12]
    assert all(entry["count"] == 11 for entry in tests)
    shown = metrics(trained, "train")
    assert [entry["iteration"] for entry in shown] == [0, 2, 4, 6, 8, 10]
    assert {"loss", "lr", "lr_x1", "lr_x2", "lr_x10", "lr_x20", "images_per_second", "data_wait"} <= shown[0].keys()
    assert shown[0]["lr_x20"] == pytest.approx(0.2)
    assert {"grad_norm", "grad_norm/conv1", "update_ratio/fc8_flickr"} <= shown[0].keys()
    assert all(0 <= entry["data_wait"] < 1 for entry in shown)
    assert all(entry["step_ms"] > 0 <= entry["data_ms"] for entry in shown)
    assert [entry["test_ms"] > 0 for entry in shown] == [entry["iteration"] % 4 == 0 for entry in shown]
    assert "remaining_seconds" in shown[-1]
    saved = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert saved == ["iter_10", "iter_12", "iter_5"]
    progress = json.loads((trained / "checkpoints" / "iter_10" / "progress.json").read_text())
    assert progress["iteration"] == 10
    assert [test["iteration"] for test in progress["tests"]] == [0, 4, 8]


@pytest.mark.parametrize(("flags", "last"), [([], 4), (["--train.patience=1", "--optim.base_lr=0"], 2)])
def test_wandb_gets_the_accuracy_of_each_class_and_the_predictions_of_the_last_test(
    pixel_shards, tmp_path, flags, last
):
    """Also of a run that stops early."""
    schedule = ["--train.max_iter=4", "--train.test_interval=2", "--train.display=1", "--tracking.wandb=offline"]
    done = python(
        "-m",
        "stylefinetune.train",
        *NARROW,
        f"--data.shards={pixel_shards}",
        f"--run_dir={tmp_path}",
        *schedule,
        *flags,
    )
    assert done.returncode == 0, done.stderr
    logged = metrics(tmp_path, "test")
    by_class = {name: value for name, value in logged[-1].items() if name.startswith("class_accuracy/")}
    assert len(by_class) == 4
    assert logged[-1]["iteration"] == last
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = [record.history for record in _records(file.read_bytes()) if record.HasField("history")]
    sent = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in rows[-1].item}
    assert rows[-1].step.num == last
    assert float(sent["test/accuracy"]) == logged[-1]["accuracy"]
    assert {f"test/{name}" for name in by_class} <= sent.keys()
    assert {"final/worst", "final/best", "final/confusion", "final/calibration"} <= sent.keys()
    assert len(list(file.parent.rglob("*.html"))) == 4


def test_no_norms_by_layer_are_logged_if_they_are_turned_off(pixel_shards, tmp_path):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", "--tracking.layer_norms=false"]
    train(*flags, "--train.max_iter=1", "--train.test_initialization=false", "--data.test.split=")
    (logged,) = metrics(tmp_path, "train")
    assert "loss" in logged
    assert [name for name in logged if name.startswith(("grad_norm", "update_ratio"))] == []


def test_the_console_prints_the_lines_of_caffe(pixel_shards, tmp_path):
    schedule = ["--train.max_iter=3", "--train.test_interval=2", "--train.display=2", "--train.average_loss=2"]
    narrow = [*NARROW, *schedule, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}"]
    done = python("-m", "stylefinetune.train", *narrow)
    assert done.returncode == 0, done.stderr
    number = r"-?[\d.]+(e-?\d+)?"
    speed = rf"Speed: {number} images/s, {number} ms an iteration \(data {number} ms, step {number} ms; the last one: "
    speed += rf"transform {number}, forward {number}, backward {number}, update {number}\)"
    patterns = [
        "Solving caffenet",
        "Learning Rate Policy: step",
        "Input: resized to 48x48, .*",
        r"Plan: 41 training pictures of 4 classes; 10 pictures an iteration, 3 iterations \(0\.732 epochs\); 11 .*",
        r"Iteration 0, Testing net \(#0\)",
        rf"    Test net output #0: accuracy = {number}",
        rf"    Test net output #1: loss = ({number}) \(\* 1 = {number} loss\)",
        rf"Iteration 0 \({number} iter/s, {number}s/1 iters\), loss = {number}",
        rf"    Train net output #0: loss = {number} \(\* 1 = {number} loss\)",
        "Iteration 0, lr = 0.01",
        rf"    {speed}, waiting for data {number}%, {number} TFLOP/s, peak memory {number} GiB, test {number} s",
        r"Iteration 2, Testing net \(#0\)",
        rf"    Test net output #0: accuracy = {number}",
        rf"    Test net output #1: loss = {number} \(\* 1 = {number} loss\)",
        rf"Iteration 2 \({number} iter/s, {number}s/2 iters\), loss = {number}",
        rf"    Train net output #0: loss = {number} \(\* 1 = {number} loss\)",
        "Iteration 2, lr = 0.01",
        rf"    {speed}, waiting for data {number}%, {number} TFLOP/s, peak memory {number} GiB, test {number} s",
        r"Iteration 3, Testing net \(#0\)",
        rf"    Test net output #0: accuracy = {number}",
        rf"    Test net output #1: loss = {number} \(\* 1 = {number} loss\)",
        "Snapshotting to .*/checkpoints/iter_3",
        rf"    Training paused {number} s for the checkpoint",
        r"Optimization Done\.",
        "To see which classes it gets wrong, run: stylefinetune evaluate .*",
    ]
    lines = [line for line in done.stderr.splitlines() if re.match(r"[IWE]\d{4} ", line)]
    assert len(lines) == len(patterns), done.stderr
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(rf"I\d{{4}} \d\d:\d\d:\d\d\.\d{{6}} +\d+ \w+\.py:\d+\] {pattern}", line), (line, pattern)
    assert (tmp_path / "train.log").read_text().splitlines() == lines


def test_after_a_power_failure_a_resumed_run_has_all_metrics(pixel_shards, tmp_path, monkeypatch):
    """The disk has what was flushed before a checkpoint was published; the entries since then are written again."""
    before, after, flushed, fsync = tmp_path / "before", tmp_path / "after", {}, os.fsync
    flags = [*NARROW, f"--data.shards={pixel_shards}", "--train.max_iter=12", "--train.test_interval=4"]
    flags += ["--train.display=1", "--checkpoint.snapshot=6"]

    def note_flushed(descriptor):
        fsync(descriptor)
        file = before / "metrics.jsonl"
        if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
            flushed["now"] = file.read_bytes()

    def note_published(*arguments):
        flushed[arguments[1].iteration] = flushed["now"]
        return save_checkpoint(*arguments)

    monkeypatch.setattr(os, "fsync", note_flushed)
    monkeypatch.setattr(async_saver, "save_checkpoint", note_published)
    train(*flags, f"--run_dir={before}")
    monkeypatch.undo()
    shutil.copytree(before, after)
    shutil.rmtree(after / "checkpoints" / "iter_12")
    (after / "metrics.jsonl").write_bytes(flushed[6])
    assert [entry["iteration"] for entry in metrics(after, "train")] == list(range(6))
    train(*flags, f"--run_dir={after}")
    for phase in ("train", "test"):
        assert [(e["iteration"], e["loss"]) for e in metrics(after, phase)] == [
            (e["iteration"], e["loss"]) for e in metrics(before, phase)
        ]


def test_a_finished_run_trains_no_further(trained, pixel_shards, tmp_path):
    run_dir = tmp_path / "again"
    shutil.copytree(trained, run_dir)
    before = (run_dir / "metrics.jsonl").read_text()
    schedule = ["--train.max_iter=12", "--train.test_interval=4", "--train.display=2"]
    train(*NARROW, *schedule, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}")
    assert (run_dir / "metrics.jsonl").read_text() == before


def test_a_run_of_some_epochs_records_its_iterations_and_is_resumed_with_more(pixel_shards, tmp_path):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", "--train.test_interval=0"]
    train(*flags, "--train.epochs=0.5")  # of 41 pictures in batches of 10
    saved = (tmp_path / "checkpoints" / "iter_3" / "config.yaml").read_text()
    assert "max_iter: 3\n" in saved
    assert "epochs: null\n" in saved
    assert "  shuffle: true\n" in saved
    train(*flags, "--train.epochs=1")
    assert (tmp_path / "checkpoints" / "iter_5").is_dir()
    log = (tmp_path / "train.log").read_text()
    assert "train.max_iter changes from 3 to 5" in log
    assert "5 iterations (1.22 epochs) from iteration 3; " in log


def test_frozen_layers_do_not_change(pixel_shards, tmp_path):
    rules = '--optim.layers=[{match: "fc8_*", lr_mult: 10}, {match: "*", lr_mult: 0}]'
    train(*NARROW, *TWENTY, rules, "--checkpoint.snapshot=10", f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}")
    early, late = (load_file(tmp_path / "checkpoints" / f"iter_{n}" / "model.safetensors") for n in (10, 20))
    changed = {name for name in early if not np.array_equal(early[name], late[name])}
    assert changed == {"fc8_flickr.weight", "fc8_flickr.bias"}


@pytest.mark.parametrize("count", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_run_with_resume_none_continues_when_torchrun_or_slurm_starts_it_again(pixel_shards, tmp_path, count):
    """The command given again is refused, since it asks for a new run."""
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", "--train.max_iter=1", "--resume=none"]
    command = ["-m", "stylefinetune.train", *flags]
    assert python(*command).returncode == 0
    restarted = python(*command, env={count: "1"})
    assert restarted.returncode == 0, restarted.stderr
    assert f"Restoring previous solver status from {tmp_path}/checkpoints/iter_1" in restarted.stderr
    again = python(*command)
    assert again.returncode == 2
    assert "iter_1 exists already" in again.stderr


def test_a_run_does_not_resume_with_pictures_that_its_mean_picture_does_not_fit(trained, pixel_shards, tmp_path):
    flags = [f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", f"--resume={trained}:5"]
    with pytest.raises(UserError, match="the pictures are 43x43, and the mean picture is 48x48"):
        train(*NARROW, *flags, "--data.augment.random_resized_crop=true")


def test_logs_tests_and_checkpoints_do_not_change_the_weights(pixel_shards, tmp_path):
    recipe = ["--train.max_iter=5", "--train.iter_size=2", "--train.ema_decay=0.5", "--optim.clip_gradients=2"]
    schedules = {
        "busy": ["--train.display=1", "--train.test_interval=1", "--checkpoint.snapshot=1"],
        "quiet": ["--train.display=0", "--train.test_interval=0", "--checkpoint.snapshot=0"],
    }
    for name, schedule in schedules.items():
        train(*NARROW, *recipe, *schedule, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / name}")
    for file in ("model.safetensors", "optimizer.safetensors"):
        busy, quiet = ((tmp_path / name / "checkpoints" / "iter_5" / file).read_bytes() for name in schedules)
        assert busy == quiet, file
