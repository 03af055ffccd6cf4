import random

import pytest
import torch

from stylefinetune.engines.loss_scale import (
    HostScaler,
    build_scaler,
    nan_below_min_scale,
    restore_scaler,
    scaler_scalars,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(5))
def test_the_scale_changes_like_that_of_gradscaler(seed):
    ours, theirs = HostScaler(), build_scaler(CPU, enabled=True)
    assert scaler_scalars(ours) == scaler_scalars(theirs) == {"loss_scale": 4096.0, "good_steps": 0}
    weight, draw = torch.nn.Parameter(torch.zeros(1)), random.Random(seed)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for scaler in (ours, theirs):
        restore_scaler(scaler, {"loss_scale": 1024.0, "good_steps": 1990})
    seen = set()
    for _ in range(30):
        overflow = draw.random() < 0.04 * seed
        loss = theirs.scale(weight * (float("inf") if overflow else 1.0))
        loss.backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(overflow=overflow)
        assert scaler_scalars(ours) == scaler_scalars(theirs)
        seen.add(ours.value)
    assert len(seen) > 1
    assert ours.scale(torch.ones(())) == theirs.scale(torch.ones(()))


def test_a_disabled_scaler_has_no_state():
    scaler = build_scaler(CPU, enabled=False)
    restore_scaler(scaler, {"loss_scale": 8.0, "good_steps": 3})
    assert scaler_scalars(scaler) == {}


def test_a_checkpoint_without_scale_starts_with_the_initial_scale():
    scaler = HostScaler()
    restore_scaler(scaler, {})
    assert scaler_scalars(scaler) == {"loss_scale": 4096.0, "good_steps": 0}


@pytest.mark.parametrize(("scale", "is_nan"), [(2.0**-16, False), (2.0**-17, True)])
def test_a_scale_below_the_minimum_is_reported_as_nan(scale, is_nan):
    scaler = HostScaler()
    restore_scaler(scaler, {"loss_scale": scale, "good_steps": 0})
    assert bool(nan_below_min_scale(scaler, torch.tensor(2.9)).isnan()) is is_nan
