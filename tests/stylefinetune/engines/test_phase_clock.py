import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from stylefinetune.engines.phase_clock import PhaseClock

CPU = torch.device("cpu")


def run_step(clock):
    for _ in range(2):  # two micro-batches
        with clock.phase("forward"):
            pass
    with clock.phase("update"):
        pass


def test_the_phases_of_a_step_are_added_over_its_micro_batches():
    clock = PhaseClock(CPU, itertools.count().__next__)
    clock.start(measure=True)
    run_step(clock)
    assert clock.milliseconds() == {"forward_ms": 2000, "update_ms": 1000}


def test_only_the_steps_that_are_asked_for_are_measured():
    clock = PhaseClock(CPU, itertools.count().__next__)
    for measure in (True, False):
        clock.start(measure=measure)
        run_step(clock)
    assert clock.milliseconds() == {}


def test_a_profiler_sees_the_phases_of_every_step():
    clock = PhaseClock(CPU)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run_step(clock)
    counts = {event.key: event.count for event in profiler.key_averages()}
    assert (counts["forward"], counts["update"]) == (2, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured_by_its_own_clock():
    clock = PhaseClock(torch.device("cuda"))
    clock.start(measure=True)
    with clock.phase("forward"):
        torch.cuda._sleep(100_000_000)
    assert clock.milliseconds()["forward_ms"] > 10
