"""Mixed pictures, smoothed labels, weighted and balanced classes, on several ranks and after a resume."""

import importlib.util
import json
import shutil

import pytest
from safetensors.torch import load_file

from tests.programs import NARROW, metrics, python, train_on

RECIPES = {
    "mixup and cutmix": ["--data.mixup=0.4", "--data.cutmix=1", "--data.mixup_prob=0.8", "--train.label_smoothing=0.1"],
    "weights and balance": ["--train.class_weights=[1,2,0.5,3]", "--train.label_smoothing=0.1", "--data.balanced=true"],
    "bce": ["--train.loss=bce", "--data.mixup=0.4", "--train.label_smoothing=0.1"],
}
SAME = [*NARROW, "--train.display=1", "--train.test_interval=6", "--train.iter_size=2", "--optim.base_lr=0.02"]


def flags(shards, run_dir, recipe, iterations=12):
    return [
        *SAME,
        *RECIPES[recipe],
        f"--data.shards={shards}",
        f"--run_dir={run_dir}",
        f"--train.max_iter={iterations}",
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_match_one(pixel_shards, tmp_path, recipe):
    """Without dropout, which is seeded per rank."""
    for ranks in (1, 2):
        done = train_on(ranks, *flags(pixel_shards, tmp_path / str(ranks), recipe), "--model.dropout=0")
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    for phase, count in (("train", 12), ("test", 3)):
        one, two = ([entry["loss"] for entry in metrics(tmp_path / ranks, phase)] for ranks in ("1", "2"))
        assert len(one) == count
        assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_both_engines_compute_the_same(pixel_shards, tmp_path):
    recipe = [*RECIPES["mixup and cutmix"], "--train.class_weights=balanced", "--model.dropout=0"]
    for engine in ("torch", "deepspeed"):
        folder = f"--run_dir={tmp_path / engine}"
        done = train_on(
            1, *SAME, *recipe, f"--data.shards={pixel_shards}", folder, "--train.max_iter=4", f"--engine={engine}"
        )
        assert done.returncode == 0, done.stderr
    ours, theirs = (
        [entry["loss"] for entry in metrics(tmp_path / engine, "train")] for engine in ("torch", "deepspeed")
    )
    assert len(ours) == 4
    assert theirs == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("recipe", ["mixup and cutmix", "weights and balance"])
def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(pixel_shards, tmp_path, recipe):
    """On two ranks, with dropout, and once with the pictures in memory."""
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    first = train_on(2, *flags(pixel_shards, uninterrupted, recipe), "--checkpoint.snapshot=5")
    assert first.returncode == 0, first.stderr
    shutil.copytree(uninterrupted, resumed, symlinks=True)
    for later in ("iter_10", "iter_12"):
        shutil.rmtree(resumed / "checkpoints" / later)
    second = train_on(2, *flags(pixel_shards, resumed, recipe), "--checkpoint.snapshot=5", "--data.resident=true")
    assert second.returncode == 0, second.stderr
    assert "iter_5" in second.stderr
    for file in ("model.safetensors", "optimizer.safetensors", "progress.json"):
        mine, theirs = ((run / "checkpoints" / "iter_12" / file).read_bytes() for run in (resumed, uninterrupted))
        assert mine == theirs, file


def test_the_test_loss_is_that_of_the_command_evaluate(pixel_shards, tmp_path):
    """Also with binary cross-entropy, whose probabilities are sigmoids."""
    done = train_on(1, *flags(pixel_shards, tmp_path / "run", "bce"))
    assert done.returncode == 0, done.stderr
    evaluated = python("-m", "stylefinetune.evaluate", tmp_path / "run", f"--out={tmp_path}")
    assert evaluated.returncode == 0, evaluated.stderr
    found, (*_, last) = json.loads((tmp_path / "metrics.json").read_text()), metrics(tmp_path / "run", "test")
    assert found["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert found["accuracy"] == last["accuracy"]
    assert last["loss"] < 0.75  # 0.69 if all probabilities are 0.5; the softmax of 4 classes has 1.4


AUGMENTED = [
    "--data.balanced=true",
    "--data.mixup=0.4",
    "--data.cutmix=1",
    "--data.mixup_prob=0.8",
    "--data.augment.random_resized_crop=true",
    "--data.augment.policy=randaugment",
    "--data.augment.random_erasing=0.5",
    "--data.mean_value=104,117,123",
]


def test_balanced_mixed_and_augmented_pictures_do_not_depend_on_ranks_workers_and_restarts(original_shards, tmp_path):
    """One rank without workers, two with two each, and two that resume with one each; without dropout."""

    def train(ranks, name, workers, *further):
        folder = [f"--data.shards={original_shards}", f"--run_dir={tmp_path / name}", "--train.max_iter=8"]
        settings = [f"--data.workers={workers}", "--model.dropout=0", "--checkpoint.snapshot=4", *further]
        done = train_on(ranks, *SAME, *AUGMENTED, *folder, *settings)
        assert done.returncode == 0, done.stderr

    train(1, "one", 0)
    train(2, "two", 2)
    train(2, "resumed", 1, f"--resume={tmp_path / 'two' / 'checkpoints' / 'iter_4'}")
    one, two = ([entry["loss"] for entry in metrics(tmp_path / name, "train")] for name in ("one", "two"))
    assert len(set(one)) == len(one) == 8
    assert two == pytest.approx(one, abs=1e-5)
    for file in ("model.safetensors", "optimizer.safetensors"):
        mine, theirs = (tmp_path / name / "checkpoints" / "iter_8" / file for name in ("resumed", "two"))
        assert mine.read_bytes() == theirs.read_bytes(), file


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_two_ranks_match_one_with_each_optimizer(pixel_shards, tmp_path, optimizer):
    """In the losses and in all weights."""
    settings = [f"--optim.optimizer={optimizer}", "--optim.base_lr=0.001", "--model.dropout=0"]
    for ranks in (1, 2):
        folder = [f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / str(ranks)}", "--train.max_iter=8"]
        done = train_on(ranks, *SAME, *settings, *folder)
        assert done.returncode == 0, done.stderr
    for phase in ("train", "test"):
        one, two = ([entry["loss"] for entry in metrics(tmp_path / ranks, phase)] for ranks in ("1", "2"))
        assert two == pytest.approx(one, abs=1e-5)
    one, two = (load_file(tmp_path / ranks / "checkpoints" / "iter_8" / "model.safetensors") for ranks in ("1", "2"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
