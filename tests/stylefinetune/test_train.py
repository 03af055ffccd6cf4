import contextlib
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.caffe_checks import compare_run
from benchmarks.caffe_results import read_micro
from shards.format.index import ShardIndex
from stylefinetune.checkpoint import async_saver
from stylefinetune.checkpoint.checkpoint import save_checkpoint
from stylefinetune.config.optim import OptimConfig
from stylefinetune.config.schema import Config, ModelConfig, TrainConfig
from stylefinetune.data import transforms
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import build_engine
from stylefinetune.errors import UserError
from stylefinetune.models.build import build_model
from stylefinetune.tracking.dashboards.wandb_offline import _records
from stylefinetune.tracking.metrics import LossWindow
from stylefinetune.train import main
from tests.programs import NARROW, ROOT, metrics, python, run, torchrun, train_on

TWENTY = ["--train.max_iter=20", "--train.test_interval=10", "--train.display=1", "--checkpoint.snapshot=0"]


def train(*arguments):
    """Train on one rank in this process."""
    with contextlib.chdir(ROOT):
        main([str(argument) for argument in arguments])


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
        "To see which classes it gets wrong, run: python -m stylefinetune.evaluate .*",
    ]
    lines = [line for line in done.stderr.splitlines() if re.match(r"[IWE]\d{4} ", line)]
    assert len(lines) == len(patterns), done.stderr
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(rf"I\d{{4}} \d\d:\d\d:\d\d\.\d{{6}} +\d+ \w+\.py:\d+\] {pattern}", line), (line, pattern)
    assert (tmp_path / "train.log").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("flags", "precision"),
    [({}, "fp32"), ({"clip_gradients": 1.0}, "fp32"), ({"clip_gradients": 1.0}, "fp16")],
    ids=["plain", "clipped", "clipped in fp16"],
)
def test_a_step_never_reads_a_tensor_value(flags, precision, monkeypatch):
    """A read synchronizes with the device. It fails for PyTorch's fake tensors, which have shapes but no values.

    nonzero() and indexing by a mask fail as well, since their shapes depend on values.
    """
    world = World(rank=0, size=1, device=torch.device("cpu"))
    model, settings = ModelConfig(widths=(8, 16, 16, 16, 16, 32, 32)), TrainConfig(precision=precision)
    config = Config(model=model, optim=OptimConfig(**flags), train=settings)
    monkeypatch.setattr(transforms, "crop_each", transforms.crop_together)  # as on a GPU
    with FakeTensorMode():
        net = build_model(config.model, 5, [(43, 43)], seed=1)
        net.to = lambda *_, **__: net  # PyTorch can't move fake parameters
        transform = Transform(torch.zeros(1, 1, 3), 1.0, world.device)
        engine = build_engine(config, net, (transform, transform), world, (43, 43))
        zeros = torch.zeros(6, dtype=torch.int64)
        pictures, crops = torch.zeros(6, 48, 48, 3, dtype=torch.uint8), Crops(zeros, zeros, zeros.bool(), (43, 43))
        window = LossWindow(2, [])
        for iteration in range(3):
            micro_batches = [Batch(pictures, zeros, crops, zeros, 6)] * 2
            window.add(engine.train_step(iteration, micro_batches, lr=0.1), iteration)
        with pytest.raises(DataDependentOutputException):
            window.first_not_finite(world)


class ValueReads(TorchDispatchMode):
    """Counts how often Python reads the value of a tensor, which synchronizes with the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += operator is torch.ops.aten._local_scalar_dense.default
        return operator(*args, **(kwargs or {}))


def test_the_loop_reads_values_only_for_displayed_iterations(pixel_shards, tmp_path):
    def count_reads(iterations, display):
        schedule = [f"--train.max_iter={iterations}", f"--train.display={display}", "--train.test_interval=0"]
        run_dir = tmp_path / f"{iterations} {display}"
        with ValueReads() as reads:
            train(
                *NARROW, *schedule, "--checkpoint.snapshot=0", f"--data.shards={pixel_shards}", f"--run_dir={run_dir}"
            )
        return reads.count

    assert count_reads(4, 0) == count_reads(9, 0) < count_reads(9, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_does_not_synchronize(pixel_shards, tmp_path, monkeypatch):
    from stylefinetune.engines.torch_engine import TorchEngine

    steps, step = [], TorchEngine.train_step

    def watched(engine, iteration, micro_batches, lr):
        if iteration:  # the first iteration initializes cuDNN
            torch.cuda.set_sync_debug_mode("error")
        try:
            steps.append(iteration)
            return step(engine, iteration, micro_batches, lr)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TorchEngine, "train_step", watched)
    train(*NARROW, *TWENTY, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}")
    assert steps == list(range(20))


def test_two_ranks_match_one(pixel_shards, tmp_path):
    """With random crops, mirrors and a shuffled order; without dropout, which is seeded per rank."""
    same = [*NARROW, *TWENTY, "--model.dropout=0", "--data.shuffle=true", f"--data.shards={pixel_shards}"]
    train(*same, f"--run_dir={tmp_path / 'one'}")
    done = train_on(2, *same, f"--run_dir={tmp_path / 'two'}", "--data.workers=1")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for phase in ("train", "test"):
        one, two = metrics(tmp_path / "one", phase), metrics(tmp_path / "two", phase)
        assert [e["loss"] for e in two] == pytest.approx([e["loss"] for e in one], abs=1e-5)
    one, two = metrics(tmp_path / "one", "test"), metrics(tmp_path / "two", "test")
    assert [(e["correct"], e["count"]) for e in one] == [(e["correct"], e["count"]) for e in two]


def test_fewer_pictures_than_ranks_in_a_batch_and_in_the_last_test_batch(pixel_shards, tmp_path):
    """A batch of 2 has no picture for the third rank; the last of 11 test pictures is a batch for one rank."""
    few = [*NARROW, *TWENTY, "--model.dropout=0", "--data.batch_size=2", "--data.test.batch_size=10"]
    few = [*few, f"--data.shards={pixel_shards}"]
    train(*few, f"--run_dir={tmp_path / 'one'}")
    done = train_on(3, *few, f"--run_dir={tmp_path / 'three'}")
    assert done.returncode == 0, done.stderr
    one, three = (
        [entry["loss"] for phase in ("train", "test") for entry in metrics(tmp_path / name, phase)]
        for name in ("one", "three")
    )
    assert three == pytest.approx(one, abs=1e-5)


def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one_on_three_ranks(pixel_shards, tmp_path):
    """With dropout, crops and mirrors. Three ranks, because the sum of two does not depend on their order."""
    same = [*NARROW, f"--data.shards={pixel_shards}", "--train.display=1", "--train.test_interval=4"]
    same = [*same, "--checkpoint.snapshot=6", "--train.average_loss=3"]
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    first = train_on(3, *same, "--train.max_iter=12", f"--run_dir={uninterrupted}")
    assert first.returncode == 0, first.stderr
    shutil.copytree(uninterrupted, resumed)
    shutil.rmtree(resumed / "checkpoints" / "iter_12")
    second = train_on(3, *same, "--train.max_iter=12", f"--run_dir={resumed}")
    assert second.returncode == 0, second.stderr
    assert f"Restoring previous solver status from {resumed}/checkpoints/iter_6" in second.stderr
    for file in ("model.safetensors", "optimizer.safetensors", "progress.json"):
        actual, expected = (
            (folder / "checkpoints" / "iter_12" / file).read_bytes() for folder in (resumed, uninterrupted)
        )
        assert actual == expected
    for phase in ("train", "test"):
        actual, expected = [
            [(e["iteration"], e["loss"], e.get("lr"), e.get("accuracy")) for e in metrics(folder, phase)]
            for folder in (resumed, uninterrupted)
        ]
        assert actual == expected


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


def test_a_loss_that_is_not_finite_stops_the_run_and_finite_checkpoints_remain(pixel_shards, tmp_path):
    diverging = ["--optim.base_lr=1e6", "--checkpoint.snapshot=1", f"--data.shards={pixel_shards}"]
    message = r"the (loss isn't finite at iteration|weights aren't finite after) \d+.*; lower optim\.base_lr"
    with pytest.raises(UserError, match=message):
        train(*NARROW, *TWENTY, *diverging, f"--run_dir={tmp_path}")
    for saved in (tmp_path / "checkpoints").glob("iter_*"):
        assert np.isfinite(json.loads((saved / "progress.json").read_text())["losses"]).all()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.shards=nowhere"], "error: data.shards: nowhere/index.parquet: no such file; make it with: python -m"),
        (["--optim.base_lrr=1"], "error: unknown key optim.base_lrr; did you mean optim.base_lr?"),
        (
            ["--run_dir=/dev/null"],
            "error: rank 0: run_dir /dev/null can't be created: File exists; use another --run_dir",
        ),
        (["--weights=none.caffemodel"], "error: none.caffemodel can't be read: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(pixel_shards, tmp_path, flags, line):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", *flags]
    done = python("-m", "stylefinetune.train", *flags)
    assert done.returncode == 2
    errors = [printed for printed in done.stderr.splitlines() if not re.match(r"I\d{4} ", printed)]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith(line)


def test_under_torchrun_one_rank_prints_the_error_and_none_hangs(pixel_shards, tmp_path):
    flags = [*NARROW, f"--data.shards={pixel_shards}", "--optim.layers=[{match: nope}]", f"--run_dir={tmp_path}"]
    done = torchrun(2, *flags)
    assert done.returncode == 1  # torchrun turns every failure into 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    layers = "conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8_flickr"
    assert errors == [f"error: optim.layers: 'nope' matches no layer; the layers are {layers}"]
    assert "stylefinetune/" not in done.stderr.replace(str(tmp_path), "")  # no traceback


def test_a_damaged_shard_exceeds_max_corrupt(original_shards, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(original_shards, shards)
    tar = shards / "train" / "00001.tar"
    tar.write_bytes(b"\0" * tar.stat().st_size)
    done = train_on(2, *NARROW, *TWENTY, f"--data.shards={shards}", f"--run_dir={tmp_path / 'run'}")
    assert done.returncode == 4  # of the rank that exits first; the other may get SIGTERM as it exits
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert re.match(
        r"error: \d+ of 41 pictures are corrupt, the last one is .*train/00001\.tar: \S+; restore them", errors[0]
    )
    record = json.loads((tmp_path / "run" / "exit.json").read_text())
    assert (record["code"], record["reason"], record["requeue"]) == (4, "data", False)


def test_a_run_may_continue_with_a_loss_that_is_not_finite_but_does_not_save_the_weights(pixel_shards, tmp_path):
    diverging = ["--optim.base_lr=1e6", "--checkpoint.snapshot=1", "--train.stop_on_nonfinite=false"]
    train(*NARROW, *TWENTY, *diverging, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}")
    losses = [entry["loss"] for entry in metrics(tmp_path, "train")]
    assert len(losses) == 20
    assert not np.isfinite(losses[-1])
    log = (tmp_path / "train.log").read_text()
    assert "iter_20 is not written, since the weights aren't finite" in log
    for saved in (tmp_path / "checkpoints").glob("iter_*"):
        weights = load_file(saved / "model.safetensors")
        assert all(np.isfinite(weight).all() for weight in weights.values())


def test_the_error_names_the_last_good_checkpoint(pixel_shards, tmp_path):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", "--train.display=5"]
    train(*flags, "--train.max_iter=3", "--train.test_interval=0")
    before = (tmp_path / "checkpoints" / "iter_3" / "manifest.json").read_text()
    diverging = ["--train.max_iter=20", "--train.test_interval=0", "--optim.base_lr=1e9", "--checkpoint.snapshot=0"]
    with pytest.raises(
        UserError, match=r"the loss isn't finite at iteration \d+; the last good checkpoint is .*iter_3;"
    ):
        train(*flags, *diverging)
    lines = [line.split("] ")[1] for line in (tmp_path / "train.log").read_text().splitlines()]
    resumed = lines.index(f"Restoring previous solver status from {tmp_path}/checkpoints/iter_3")
    assert lines[resumed + 1 : resumed + 4] == [
        "optim.base_lr changes from 0.01 to 1000000000.0",
        "train.max_iter changes from 3 to 20",
        "Solving caffenet",
    ]
    assert (tmp_path / "checkpoints" / "iter_3" / "manifest.json").read_text() == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["iter_3"]
    record = json.loads((tmp_path / "exit.json").read_text())
    assert (record["code"], record["requeue"], record["checkpoint"]) == (3, False, str(tmp_path / "checkpoints/iter_3"))
    assert f"at iteration {record['iteration']};" in record["message"]


def test_corrupt_pictures_are_named_and_skipped_on_any_number_of_ranks(original_shards, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(original_shards, shards)
    index = ShardIndex.load(shards)
    named = []
    for split, row in (("train", 5), ("train", 33), ("test", 4)):
        entries = index.entries(split)
        with (shards / entries.shard[row]).open("r+b") as tar:
            tar.seek(int(entries.offset[row]))
            tar.write(b"\0" * int(entries.length[row]))
        named.append(f"{shards / entries.shard[row]}: {entries.key[row]} is corrupt and skipped (")
    same = [*NARROW, *TWENTY, "--model.dropout=0", "--data.max_corrupt=0.1", f"--data.shards={shards}"]
    train(*same, f"--run_dir={tmp_path / 'one'}")
    done = train_on(2, *same, f"--run_dir={tmp_path / 'two'}", "--data.workers=1")
    assert done.returncode == 0, done.stderr
    for run_dir in (tmp_path / "one", tmp_path / "two"):
        log = (run_dir / "train.log").read_text()
        assert [log.count(line) for line in named] == [1, 1, 1]
        assert [entry["count"] for entry in metrics(run_dir, "test")] == [10, 10, 10]
    for phase in ("train", "test"):
        one, two = metrics(tmp_path / "one", phase), metrics(tmp_path / "two", phase)
        assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=1e-5)


def test_a_useless_restart_by_torchrun_exits_at_once_and_the_first_record_stays(pixel_shards, tmp_path):
    diverging = [
        *NARROW,
        "--optim.base_lr=1e6",
        "--train.display=1",
        "--train.max_iter=1000",
        "--checkpoint.snapshot=1",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max_restarts=1"]
    rendezvous = ["--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0", "-m", "stylefinetune.train"]
    flags = [*NARROW, *diverging, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}"]
    done = run(*launcher, *rendezvous, *flags, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1
    record = json.loads((tmp_path / "exit.json").read_text())
    assert (record["code"], record["reason"], record["restarts"]) == (3, "not finite", 0)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert lines == [
        f"error: {record['message']}",
        f"error: not restarted, since a restart can't help: {record['message']}",
    ]
    assert done.stderr.count("Learning Rate Policy") == 1
