"""Networks other than CaffeNet, from training to prediction."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylefinetune.config.schema import ModelConfig
from stylefinetune.models.build import build_model
from tests.programs import metrics, python, train_on

FLAGS = [
    "--data.image_size=48",
    "--data.crop_size=32",
    "--data.batch_size=8",
    "--data.workers=0",
    "--data.mean_value=104,117,123",
    "--data.scale=0.02",
    "--optim.base_lr=0.001",
    "--optim.lr_policy=fixed",
    "--train.display=1",
    "--train.test_interval=2",
    "--checkpoint.snapshot=0",
    "--tracking.wandb=disabled",
]


@pytest.fixture(scope="module")
def flags(pixel_shards):
    return [*FLAGS, f"--data.shards={pixel_shards}"]


def train(ranks, *flags, run_dir, iterations):
    done = train_on(ranks, *flags, f"--run_dir={run_dir}", f"--train.max_iter={iterations}")
    assert done.returncode == 0, done.stderr
    return done.stderr


def tensors(run_dir, iteration, file="model"):
    return load_file(run_dir / "checkpoints" / f"iter_{iteration}" / f"{file}.safetensors")


@pytest.mark.parametrize(
    "arch",
    [
        "resnet18",
        "convnext_tiny",
        "timm/vit_tiny_patch16_224",
        pytest.param("vit_b_32", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_agree_with_one_within_1e_5(flags, tmp_path, arch):
    own = {"resnet18": ["--model.batch_norm=eval"], "convnext_tiny": ["--model.drop_path=0"]}.get(arch, [])
    for ranks in (1, 2):
        train(ranks, *flags, *own, f"--model.arch={arch}", run_dir=tmp_path / f"{ranks}", iterations=3)
    one, two = (tensors(tmp_path / f"{ranks}", 3) for ranks in (1, 2))
    assert max((one[name].double() - two[name].double()).abs().max().item() for name in one) < 1e-5
    for phase in ("train", "test"):
        losses = [[entry["loss"] for entry in metrics(tmp_path / f"{ranks}", phase)] for ranks in (1, 2)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(flags, tmp_path, ranks):
    """With running statistics that training changes, of which each rank has its own."""
    flags = [*flags, "--model.arch=resnet18", "--model.batch_norm=train"]
    train(ranks, *flags, run_dir=tmp_path / "whole", iterations=4)
    for iterations in (2, 4):
        train(ranks, *flags, run_dir=tmp_path / "parts", iterations=iterations)
    for file in ("model", "optimizer"):
        whole, parts = (tensors(tmp_path / run, 4, file) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    tests = [[entry["loss"] for entry in metrics(tmp_path / run, "test")] for run in ("whole", "parts")]
    assert tests[1][-1] == tests[0][-1]


def test_drop_path_is_active_in_training_only_and_resumed_bit_for_bit(flags, tmp_path):
    """The draws follow from the seed and the iteration, as those of dropout."""
    flags = [*flags, "--model.arch=timm/vit_tiny_patch16_224"]
    dropping = [*flags, "--model.drop_path=0.5"]
    train(1, *flags, "--model.drop_path=0", run_dir=tmp_path / "none", iterations=1)
    train(1, *dropping, run_dir=tmp_path / "whole", iterations=4)
    for iterations in (2, 4):
        train(1, *dropping, run_dir=tmp_path / "parts", iterations=iterations)
    none, whole = (tmp_path / run for run in ("none", "whole"))
    assert metrics(whole, "test")[0]["loss"] == metrics(none, "test")[0]["loss"]  # of equal initial weights
    assert metrics(whole, "train")[0]["loss"] != metrics(none, "train")[0]["loss"]
    for file in ("model", "optimizer"):
        mine, theirs = (tensors(tmp_path / run, 4, file) for run in ("parts", "whole"))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_network_is_fine_tuned_evaluated_and_used(flags, drawn, tmp_path):
    pretrained = build_model(ModelConfig(arch="resnet18"), 1000, [(32, 32)], seed=5)
    save_file(pretrained.state_dict(), tmp_path / "imagenet.safetensors")
    run = tmp_path / "run"
    flags = [*flags, "--model.arch=resnet18", f"--weights={tmp_path / 'imagenet.safetensors'}"]
    log = train(1, *flags, run_dir=run, iterations=2)
    for line in (
        "Copied the weights of 40 of 41 layers",
        "Random weights in fc",
        "Batch normalization: the running statistics, which do not change",
        "Solving resnet18",
    ):
        assert line in log
    trained = tensors(run, 2)
    before = pretrained.state_dict()
    unchanged = {name for name in before if torch.equal(trained[name], before[name]) if name in trained}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert unchanged == {name for name in before if name.endswith(statistics)}
    assert trained["fc.weight"].shape == (4, 512)
    rates = metrics(run, "train")[0]
    assert (rates["lr_x1"], rates["lr_x10"]) == (0.001, 0.01)
    assert "lr_x2" not in rates

    evaluated = python("-m", "stylefinetune.evaluate", run)
    accuracy = metrics(run, "test")[-1]["accuracy"]
    assert f"accuracy = {accuracy:.6g} (" in evaluated.stdout
    predicted = python("-m", "stylefinetune.predict", drawn.folder / "test_000.jpg", "--checkpoint", run)
    assert predicted.stdout.count(' - "') == 4
    exported = python("-m", "stylefinetune.export", run, "--to=caffemodel", f"--out={tmp_path}")
    assert (exported.returncode, exported.stderr) == (
        2,
        f"error: {run}/checkpoints/iter_2 is a resnet18, and only Caffe's nets can be exported to Caffe\n",
    )
    other = train_on(1, *flags, f"--run_dir={run}", "--train.max_iter=3", "--model.arch=resnet34")
    assert other.returncode == 2
    assert "iter_2 was trained with model.arch resnet18, not resnet34; use another --run_dir, or" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_zero_stage_trains_a_network_with_buffers_as_pytorch_does(flags, tmp_path, stage):
    flags = [*flags, "--model.arch=resnet18", "--model.batch_norm=eval"]
    train(2, *flags, run_dir=tmp_path / "torch", iterations=3)
    zero = ["--engine=deepspeed", f"--deepspeed.zero_stage={stage}"]
    for iterations in (2, 3):
        train(2, *flags, *zero, run_dir=tmp_path / "zero", iterations=iterations)
    one, two = (tensors(tmp_path / run, 3) for run in ("torch", "zero"))
    assert max((one[name].double() - two[name].double()).abs().max().item() for name in one) < 1e-5
