"""Each rule of Caffe, applied wrongly: the comparison with the original run must show a difference."""

import contextlib

import numpy as np
import pytest
import torch

from stylefinetune.data import sampler
from stylefinetune.data.transforms import Transform
from stylefinetune.models import caffenet
from stylefinetune.optim.caffe_sgd import MOMENTUM, CaffeSGD
from stylefinetune.train import main
from tests.programs import ROOT, metrics

TOLERANCE = 1e-5


@pytest.fixture
def difference(golden, micro, tmp_path):
    """Trains the micro net from Caffe's random weights and returns the largest difference from Caffe's losses."""
    truth = np.load(golden / "micro" / "scratch" / "golden_scratch.npz")
    start = golden / "micro" / "scratch" / "micro_iter_0.caffemodel"

    def run(iterations, *flags):
        short = [f"--train.max_iter={iterations}", "--optim.base_lr=0.005", "--checkpoint.snapshot=0"]
        with contextlib.chdir(ROOT):
            main([*micro, *short, f"--weights={start}", f"--run_dir={tmp_path}", *flags])
        losses = np.array([entry["loss"] for entry in metrics(tmp_path, "train")])
        tests = np.array([entry["loss"] for entry in metrics(tmp_path, "test") if entry["iteration"] % 20 == 0])
        return max(
            np.abs(losses - truth["train_loss"][:iterations]).max(),
            np.abs(tests - truth["test_loss"][: len(tests)]).max(),
        )

    return run


def update(rule):
    """Return a CaffeSGD.step whose update of one parameter is `rule(weight, gradient, velocity, group)`."""

    @torch.no_grad()
    def step(self, closure=None):
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                gradient = weight.grad + group["weight_decay"] * group["decay_mult"] * weight
                rule(weight, gradient, self.state[weight][MOMENTUM], group)

    return step


def outside_the_momentum(weight, gradient, velocity, group):
    velocity.mul_(group["momentum"]).add_(gradient)
    weight.sub_(velocity, alpha=group["lr"] * group["lr_mult"])


def nesterov(weight, gradient, velocity, group):
    before = velocity.clone()
    velocity.mul_(group["momentum"]).add_(gradient, alpha=group["lr"] * group["lr_mult"])
    weight.sub_((1 + group["momentum"]) * velocity - group["momentum"] * before)


def test_the_right_rules_agree(difference):
    assert difference(22) <= TOLERANCE


@pytest.mark.parametrize(
    ("flag", "iterations"),
    [
        ('--optim.layers=[{match: "fc8_*", lr_mult: 10, bias_decay_mult: 1}, {match: "*", bias_decay_mult: 1}]', 10),
        ('--optim.layers=[{match: "fc8_*", lr_mult: 10, bias_lr_mult: 10}, {match: "*", bias_lr_mult: 1}]', 4),
        ("--optim.layers=[]", 4),
        ("--optim.weight_decay=0", 6),
        ("--optim.lr_policy=fixed", 23),
    ],
    ids=["decay on biases", "bias rate not doubled", "last layer not x10", "no decay", "no drop of the rate"],
)
def test_a_wrong_setting_is_seen(difference, flag, iterations):
    assert difference(iterations, flag) > TOLERANCE


@pytest.mark.parametrize(("rule", "iterations"), [(outside_the_momentum, 23), (nesterov, 4)])
def test_a_wrong_update_is_seen(difference, monkeypatch, rule, iterations):
    monkeypatch.setattr(CaffeSGD, "step", update(rule))
    assert difference(iterations) > TOLERANCE


def test_alpha_not_divided_is_seen(difference, monkeypatch):
    right = caffenet.LocalResponseNorm
    monkeypatch.setattr(caffenet, "LocalResponseNorm", lambda size, alpha, **rest: right(size, size * alpha, **rest))
    assert difference(4) > TOLERANCE


def test_rgb_is_seen(difference, monkeypatch):
    right = Transform.__call__
    monkeypatch.setattr(Transform, "__call__", lambda *arguments: right(*arguments).flip(1))
    assert difference(4) > TOLERANCE


def test_a_test_that_restarts_at_the_first_picture_is_seen(difference, monkeypatch):
    monkeypatch.setattr(sampler, "_count_previous_tests", lambda *_: 0)
    assert difference(20) > TOLERANCE
