"""Mistakes, losses that are not finite and damaged shards: the messages, the exit codes and what is saved."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from stylefinetune.errors import UserError
from tests.programs import NARROW, TWENTY, metrics, python, run, torchrun, train, train_on


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
        (["--data.shards=nowhere"], "error: data.shards: nowhere/index.parquet: no such file; make it with: shards"),
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
