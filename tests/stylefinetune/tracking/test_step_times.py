from types import SimpleNamespace

import pytest

from stylefinetune.tracking.step_times import StepClock, StepTimes


@pytest.fixture
def clock():
    """A StepClock after 500 iterations; `clock.pass_time(seconds)` lets time pass."""
    now = SimpleNamespace(value=100.0)
    clock = StepClock(lambda: now.value)
    clock.start(500)
    clock.pass_time = lambda seconds: setattr(now, "value", now.value + seconds)
    return clock


def test_tests_and_checkpoints_are_no_training_time(clock):
    clock.pass_time(20 + 3 + 0.5)
    clock.add_test(3)
    clock.add_checkpoint(0.5)
    assert clock.take(510, 4.0) == StepTimes(iterations=10, train=20, data=4, test=3, checkpoint=0.5)
    clock.pass_time(2)
    assert clock.take(511, 0.0) == StepTimes(iterations=1, train=2, data=0, test=0, checkpoint=0)


def test_the_mean_leaves_out_the_first_display(clock):
    clock.pass_time(60)
    clock.take(501, 0.0)
    assert clock.seconds_per_iteration is None
    for iterations, seconds in ((502, 1), (512, 21)):
        clock.pass_time(seconds)
        clock.take(iterations, 0.0)
    assert clock.seconds_per_iteration == 2.0


def test_the_milliseconds_by_phase():
    times = StepTimes(iterations=20, train=12.0, data=0.02, test=3.21, checkpoint=0.125)
    assert times.milliseconds == {"data_ms": 1, "step_ms": 599, "test_ms": 3210, "checkpoint_ms": 125}


def test_a_line_says_where_the_time_went():
    times = StepTimes(iterations=20, train=12.0, data=0.03, test=3.21, checkpoint=0.125)
    assert times.describe(1000, {"forward_ms": 181.23, "update_ms": 9.87}, ["2 TFLOP/s"], "1:23:45") == (
        "    Speed: 83.33 images/s, 600 ms an iteration (data 1.5 ms, step 598.5 ms; the last one: "
        "forward 181, update 9.87), waiting for data 0.2%, 2 TFLOP/s, test 3.21 s, checkpoint 0.125 s, "
        "remaining 1:23:45"
    )
    times = StepTimes(iterations=20, train=12.0, data=3, test=0, checkpoint=0)
    assert times.describe(1000, {}, [], "").endswith("step 450 ms), waiting for data 25.0%")
