"""A recipe unlike Caffe's: AdamW, a decay of the rate per block, layers that thaw, and an average of the weights."""

import pytest
import torch
from safetensors.torch import load_file

from tests.programs import metrics, python, train_on

FLAGS = [
    "--model.arch=resnet18",
    "--model.batch_norm=train",
    "--data.image_size=48",
    "--data.crop_size=32",
    "--data.batch_size=8",
    "--data.workers=0",
    "--data.mean_value=104,117,123",
    "--data.scale=0.02",
    "--optim.optimizer=adamw",
    "--optim.base_lr=0.001",
    "--optim.lr_policy=cosine",
    "--optim.weight_decay=0.05",
    "--optim.layer_decay=0.75",
    "--optim.decay_norms=false",
    "--optim.clip_gradients=1",
    '--optim.layers=[{match: "fc"}, {match: "*", freeze_until: 1}]',
    "--train.ema_decay=0.5",
    "--train.max_iter=4",
    "--train.display=1",
    "--train.test_interval=2",
    "--tracking.wandb=disabled",
]


@pytest.fixture(scope="module")
def run(pixel_shards, tmp_path_factory):
    """A run on two ranks."""
    folder = tmp_path_factory.mktemp("modern") / "run"
    done = train_on(2, *FLAGS, f"--data.shards={pixel_shards}", f"--run_dir={folder}", "--checkpoint.snapshot=3")
    assert done.returncode == 0, done.stderr
    return folder


def tensors(run, iteration, file):
    return load_file(run / "checkpoints" / f"iter_{iteration}" / f"{file}.safetensors")


@pytest.mark.parametrize("ema", ["true", "false"])
def test_the_average_is_tested_beside_the_weights_and_evaluate_chooses_one_of_them(run, ema):
    last = metrics(run, "test")[-1]
    assert last["ema_loss"] != last["loss"]
    done = python("-m", "stylefinetune.evaluate", run, "--workers=0", f"--ema={ema}")
    assert done.returncode == 0, done.stderr
    prefix = "ema_" if ema == "true" else ""
    (loss,) = (line.split("=")[1] for line in done.stdout.splitlines() if line.startswith("loss ="))
    assert float(loss) == pytest.approx(last[f"{prefix}loss"], rel=1e-5)
    assert f"accuracy = {last[f'{prefix}accuracy']:.6g} " in done.stdout


def test_the_log_names_both_results(run):
    log = (run / "train.log").read_text()
    assert log.count("Test net output #2: ema_accuracy = ") == log.count("Test net output #0: accuracy = ") == 3
    assert log.count("Test net output #3: ema_loss = ") == 3


def test_a_resumed_run_has_the_same_bits(run, pixel_shards, tmp_path):
    flags = [*FLAGS, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}"]
    done = train_on(2, *flags, f"--resume={run / 'checkpoints' / 'iter_3'}")
    assert done.returncode == 0, done.stderr
    for file in ("model", "optimizer"):
        ours, theirs = tensors(tmp_path, 4, file), tensors(run, 4, file)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    slots = {name.partition("/")[0] for name in ours}
    assert slots == {"step", "exp_avg", "exp_avg_sq", "ema"}
    assert "ema/bn1.running_mean" in ours
    assert (ours["step/fc.weight"], ours["step/conv1.weight"]) == (4, 3)


def test_a_run_that_starts_from_the_checkpoint_starts_from_the_average(run, pixel_shards, tmp_path):
    checkpoint = run / "checkpoints" / "iter_4"
    flags = [*FLAGS, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", "--train.max_iter=1"]
    done = train_on(1, *flags, f"--weights={checkpoint}")
    assert done.returncode == 0, done.stderr
    first, last = metrics(tmp_path, "test")[0], metrics(run, "test")[-1]
    assert first["iteration"] == 0
    assert (first["loss"], first["accuracy"]) == (pytest.approx(last["ema_loss"], rel=1e-5), last["ema_accuracy"])
