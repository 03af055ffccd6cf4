"""Nets of any Caffe layers, from a solver file to a .caffemodel that is read again."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import caffe_checks
from benchmarks.caffe_results import read_micro
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.models.build import build_model
from stylefinetune.models.state import stored_tensors
from stylefinetune.models.weights import load_weights
from tests.programs import metrics, python, train_on
from tests.stylefinetune.models.caffe_graph import published_nets

SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 max_iter: 4
test_iter: 2 test_interval: 2 display: 1 snapshot: 2 random_seed: 3 snapshot_prefix: "run"
"""
NETS = {
    "googlenet": lambda head: published_nets.googlenet(20, head, share=0.05),
    # The draws of dropout depend on the ranks.
    "no dropout": lambda head: re.sub("dropout_ratio: [0-9.]+", "dropout_ratio: 0", NETS["googlenet"](head)),
    "residual": lambda head: published_nets.residual(20, head),
}
SIDES = {"googlenet": 76, "no dropout": 76, "residual": 48}


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_caffenet_as_a_net_of_any_layers_has_caffes_results(golden, tmp_path, ranks):
    """A filler that CaffeNet doesn't have makes it such a net; the weights come from Caffe's file."""
    folder = tmp_path / "golden"
    shutil.copytree(golden / "micro", folder / "micro")
    text = (folder / "micro" / "train_val.prototxt").read_text()
    (folder / "micro" / "train_val.prototxt").write_text(text.replace('"gaussian" std: 0.01', '"xavier"'))
    caffe_checks.run_solver(folder, "finetune", ranks, tmp_path / "run", "--checkpoint.snapshot=1")
    assert "arch: caffe\n" in (tmp_path / "run" / "checkpoints" / "iter_60" / "config.yaml").read_text()
    rows = list(caffe_checks.compare_run(tmp_path / "run", read_micro(golden, "finetune"), "finetune", ranks))
    assert rows
    assert not [str(row) for row in rows if not row.holds]


@pytest.fixture
def train(golden, tmp_path):
    """Trains a net by a solver file in the folder of Caffe's pictures; returns what is on standard error."""
    shutil.copytree(golden / "micro" / "images", tmp_path / "images")
    for name in ("train.txt", "test.txt"):
        shutil.copy(golden / "micro" / name, tmp_path)
    (tmp_path / "solver.prototxt").write_text(SOLVER)

    def train(net, ranks, run_dir, *flags):
        head = published_nets.DATA % {"side": SIDES[net] + 4, "crop": SIDES[net]}
        (tmp_path / "net.prototxt").write_text(NETS[net](head))
        fixed = ("--solver=solver.prototxt", "--tracking.wandb=disabled", "--data.workers=0", "--data.scale=0.02")
        done = train_on(ranks, *fixed, f"--run_dir={run_dir}", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return train


def tensors(folder, iteration, file="model"):
    return load_file(folder / "checkpoints" / f"iter_{iteration}" / f"{file}.safetensors")


def losses(folder, phase="train"):
    return [entry["loss"] for entry in metrics(folder, phase)]


@pytest.mark.slow
def test_auxiliary_classifiers_learn_the_same_on_any_number_of_ranks(train, tmp_path):
    for name, ranks, flags in (("one", 1, ()), ("two", 2, ()), ("deep", 2, ("--engine=deepspeed",))):
        train("no dropout", ranks, tmp_path / name, *flags)
    one = tensors(tmp_path / "one", 4)
    assert any(name.startswith("loss1/classifier") for name in one)
    for other in ("two", "deep"):
        assert losses(tmp_path / other) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
        assert losses(tmp_path / other, "test") == pytest.approx(losses(tmp_path / "one", "test"), abs=1e-5)
        found = tensors(tmp_path / other, 4)
        assert max((one[name].double() - found[name].double()).abs().max().item() for name in one) < 1e-5


@pytest.mark.parametrize("net", ["googlenet", "residual"])
def test_a_run_resumes_bitwise_and_its_export_is_read_again(train, tmp_path, net):
    train(net, 1, tmp_path / "whole")
    train(net, 1, tmp_path / "parts", "--train.max_iter=2")
    assert "Restoring previous solver status" in train(net, 1, tmp_path / "parts")
    for file in ("model", "optimizer"):
        whole, parts = (tensors(tmp_path / run, 4, file) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    exported = tmp_path / "exported"
    done = python("-m", "stylefinetune.export", tmp_path / "whole", "--to=caffemodel", f"--out={exported}")
    assert done.returncode == 0, done.stderr
    (weights,) = exported.glob("*.caffemodel")
    saved = read_checkpoint(tmp_path / "whole")
    size = tuple(saved.progress.input_size)
    again = build_model(saved.config.model, 20, [size], seed=9)
    load_weights(again, str(weights), pytest.fail, "caffe")
    for name, tensor in stored_tensors(again).items():
        if not name.startswith(("loss1", "loss2")):  # the auxiliary classifiers, which a deploy net lacks
            torch.testing.assert_close(tensor, saved.tensors[name], rtol=1e-6, atol=0)


def test_a_run_is_not_resumed_with_another_net(train, tmp_path):
    train("residual", 1, tmp_path / "run", "--train.max_iter=2")
    with pytest.raises(AssertionError, match="was trained with another net"):
        train("googlenet", 1, tmp_path / "run")
