import datetime as dt

import pytest

from stylefinetune.config.data import DataConfig, TestDataConfig
from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.tracking.time_estimate import TimeEstimate

NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


def estimates(max_iter, start=0, *, seconds=2.0, test_seconds=0.0, tests=True):
    """Run with `seconds` an iteration, except 60 for the first; return (iterations, line) of each estimate."""
    now = [100.0]
    data = DataConfig(test=TestDataConfig(split="test" if tests else ""))
    config = Config(data=data, train=TrainConfig(max_iter=max_iter, test_interval=10))
    estimate = TimeEstimate(config, start, lambda: now[0], lambda: NOON)
    found = []
    for iteration in range(start, max_iter):
        if tests and test_seconds and iteration % 10 == 0:
            now[0] += test_seconds
            estimate.add_test(test_seconds)
        now[0] += seconds if iteration > start else 60
        if iteration == start + 5:
            now[0] += 7
            estimate.add_pause(7)
        if estimate.is_measured(iteration + 1):
            line = estimate.measure(iteration + 1)
            if line:
                found.append((iteration + 1, line))
    return found


@pytest.mark.parametrize("start", [0, 500])
def test_the_rest_is_estimated_once_after_twenty_iterations(start):
    ((iterations, line),) = estimates(start + 120, start)
    assert iterations == start + 20
    assert line == "An iteration takes 2 s; the rest (iterations: 100) takes about 0:03:20, until 2026-05-01 12:03"


def test_the_remaining_tests_are_included():
    ((_, line),) = estimates(120, test_seconds=30)
    assert "(iterations: 100, tests: 11) takes about 0:08:50, until 2026-05-01 12:08" in line


def test_a_run_without_tests_has_none_left():
    ((_, line),) = estimates(120, tests=False)
    assert "(iterations: 100)" in line


def test_a_run_of_twenty_iterations_gets_no_estimate():
    assert estimates(20) == []


def test_a_run_of_centuries_has_a_date():
    ((_, line),) = estimates(10**2, seconds=1e12)
    assert "until 2036-" in line
