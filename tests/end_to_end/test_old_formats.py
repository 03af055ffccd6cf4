"""Shards and a run that an earlier release wrote, in tests/old_formats, are still read and used."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from shards.format.index import ShardIndex
from tests.programs import ROOT, metrics, python, train_on

OLD = ROOT / "tests" / "old_formats"
TOLERANCE = 1e-6
CONFIG = "--config=run/checkpoints/iter_3/config.yaml"


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of the shards and of the run, whose settings name them by relative paths."""
    for name in ("originals", "pixels", "run"):
        shutil.copytree(OLD / name, tmp_path / name)
    return tmp_path


def assert_same_metrics(run_dir):
    for phase, keys in (("train", ("loss", "lr")), ("test", ("loss", "correct", "count", "accuracy"))):
        ours, theirs = metrics(run_dir, phase), metrics(OLD / "run", phase)
        assert [entry["iteration"] for entry in ours] == [entry["iteration"] for entry in theirs]
        for key in keys:
            assert [entry[key] for entry in ours] == pytest.approx([entry[key] for entry in theirs], abs=TOLERANCE)


def assert_same_checkpoint(folder):
    old = OLD / "run" / "checkpoints" / "iter_6"
    for file in ("model.safetensors", "optimizer.safetensors", "mean.safetensors"):
        ours, theirs = load_file(folder / file), load_file(old / file)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=0, atol=TOLERANCE)
    ours, theirs = (json.loads((path / "progress.json").read_text()) for path in (folder, old))
    for key in ("iteration", "seed", "classes", "picture_size", "input_size", "corrupt"):
        assert ours[key] == theirs[key]


@pytest.mark.parametrize("form", ["originals", "pixels"])
def test_old_shards_are_verified(form):
    done = python("-m", "shards", "verify", OLD / form)
    assert done.returncode == 0, done.stderr
    assert "no differences: 12 pictures of 14 rows in 5 blocks" in done.stdout
    index = ShardIndex.load(OLD / form)
    assert [len(index.entries(split).key) for split in ("train", "test")] == [8, 4]


@pytest.mark.parametrize("form", ["originals", "pixels"])
def test_old_shards_have_the_same_mean(copy, form):
    (copy / form / "mean.npy").unlink(missing_ok=True)
    done = python("-m", "shards", "mean", copy / form, "--image_size=40")
    assert done.returncode == 0, done.stderr
    ours, theirs = np.load(copy / form / "mean.npy"), np.load(OLD / "pixels" / "mean.npy")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("form", ["originals", "pixels"])
def test_training_on_old_shards_repeats_the_old_run(copy, form):
    mean = f"--data.mean_file={copy / 'pixels' / 'mean.npy'}"
    done = train_on(1, CONFIG, f"--data.shards={form}", mean, "--run_dir=new", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert_same_metrics(copy / "new")
    assert_same_checkpoint(copy / "new" / "checkpoints" / "iter_6")


def test_an_old_checkpoint_is_resumed(copy):
    shutil.rmtree(copy / "run" / "checkpoints" / "iter_6")
    done = train_on(1, CONFIG, cwd=copy)
    assert done.returncode == 0, done.stderr
    assert "Restoring previous solver status from run/checkpoints/iter_3" in done.stderr
    assert_same_metrics(copy / "run")
    assert_same_checkpoint(copy / "run" / "checkpoints" / "iter_6")


def test_an_old_checkpoint_is_evaluated(copy):
    done = python("-m", "stylefinetune.evaluate", "run", cwd=copy)
    assert done.returncode == 0, done.stderr
    accuracy = metrics(OLD / "run", "test")[-1]["accuracy"]
    assert f"accuracy = {accuracy:g}" in done.stdout
