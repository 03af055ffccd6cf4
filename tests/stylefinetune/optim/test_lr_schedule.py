import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR

from stylefinetune.config.optim import OptimConfig
from stylefinetune.optim.lr_schedule import learning_rate


@pytest.mark.parametrize(
    ("settings", "iteration", "expected"),
    [
        ({"lr_policy": "fixed"}, 99999, 0.001),
        ({}, 19999, 0.001),
        ({}, 20000, 0.0001),
        ({}, 99999, 0.001 * 0.1**4),
        ({"lr_policy": "multistep", "stepvalue": (5, 8)}, 4, 0.001),
        ({"lr_policy": "multistep", "stepvalue": (5, 8)}, 5, 0.0001),
        ({"lr_policy": "multistep", "stepvalue": (5, 8)}, 8, 0.00001),
        ({"lr_policy": "exp", "gamma": 0.99}, 10, 0.001 * 0.99**10),
        ({"lr_policy": "inv", "gamma": 0.0001, "power": 0.75}, 500, 0.001 * 1.05**-0.75),
        ({"lr_policy": "poly", "power": 2}, 25, 0.001 * 0.75**2),
        ({"lr_policy": "sigmoid", "gamma": -0.1, "stepsize": 40}, 50, 0.001 / (1 + math.exp(1.0))),
        ({"lr_policy": "sigmoid", "gamma": -0.1, "stepsize": 40}, 40, 0.0005),
        ({"warmup_iter": 4}, 0, 0.00025),
        ({"warmup_iter": 4}, 2, 0.00075),
        ({"warmup_iter": 4}, 3, 0.001),
        ({"warmup_iter": 4}, 19999, 0.001),
        ({"warmup_iter": 4}, 20000, 0.0001),
        ({"warmup_iter": 10, "lr_policy": "multistep", "stepvalue": (5,)}, 5, 0.00006),
        ({"warmup_iter": 50, "lr_policy": "poly"}, 24, 0.001 * 0.76 * 0.5),
    ],
)
def test_each_policy_gives_the_rate_of_caffe(settings, iteration, expected):
    assert learning_rate(OptimConfig(**settings), iteration, max_iter=100) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("gamma", "iteration"), [(0.1, 0), (-0.1, 99999)])
def test_a_sigmoid_far_from_its_midpoint_is_almost_0(gamma, iteration):
    """exp(2000) is no float."""
    assert 0 <= learning_rate(OptimConfig(lr_policy="sigmoid", gamma=gamma), iteration, max_iter=100000) < 1e-300


def scheduler_of_pytorch(policy: str, rate: float, length: int) -> LRScheduler:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    if policy == "linear":
        return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=length)
    if policy == "cosine":
        return CosineAnnealingLR(optimizer, T_max=length)
    return OneCycleLR(optimizer, max_lr=rate, total_steps=length, cycle_momentum=False)


@pytest.mark.parametrize("length", [1, 2, 3, 10, 97])
@pytest.mark.parametrize("policy", ["linear", "cosine", "one_cycle"])
def test_newer_policies_give_the_rates_of_pytorch(policy, length):
    scheduler = scheduler_of_pytorch(policy, 0.3, length)
    optim = OptimConfig(base_lr=0.3, lr_policy=policy)
    for iteration in range(length):
        rate = learning_rate(optim, iteration, length)
        assert rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6, abs=1e-12)
        if iteration < length - 1:
            scheduler.optimizer.step()
            scheduler.step()
