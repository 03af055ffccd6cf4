import random

import pytest
import torch

from stylefinetune.engines.loss_scale import HostScaler, doubt, open_scaler, restore, scalars_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_is_pytorchs_whatever_comes(seed):
    ours, theirs = HostScaler(), open_scaler(CPU, enabled=True)
    assert scalars_of(ours) == scalars_of(theirs) == {"loss_scale": 4096.0, "good_steps": 0}
    weight, draw = torch.nn.Parameter(torch.zeros(1)), random.Random(seed)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for scaler in (ours, theirs):
        restore(scaler, {"loss_scale": 1024.0, "good_steps": 1990})
    seen = set()
    for _ in range(30):
        overflow = draw.random() < 0.04 * seed
        loss = theirs.scale(weight * (float("inf") if overflow else 1.0))
        loss.backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(overflow=overflow)
        assert scalars_of(ours) == scalars_of(theirs)
        seen.add(ours.value)
    assert len(seen) > 1
    assert ours.scale(torch.ones(())) == theirs.scale(torch.ones(()))


def test_a_scaler_that_does_nothing_keeps_nothing_and_takes_nothing():
    scaler = open_scaler(CPU, enabled=False)
    restore(scaler, {"loss_scale": 8.0, "good_steps": 3})
    assert scalars_of(scaler) == {}


def test_a_run_that_was_not_scaled_begins_with_the_first_scale():
    scaler = HostScaler()
    restore(scaler, {})
    assert scalars_of(scaler) == {"loss_scale": 4096.0, "good_steps": 0}


@pytest.mark.parametrize(("scale", "doubted"), [(2.0**-16, False), (2.0**-17, True)])
def test_a_scale_is_doubted_where_no_smaller_one_could_help(scale, doubted):
    scaler = HostScaler()
    restore(scaler, {"loss_scale": scale, "good_steps": 0})
    assert bool(doubt(scaler, torch.tensor(2.9)).isnan()) is doubted
