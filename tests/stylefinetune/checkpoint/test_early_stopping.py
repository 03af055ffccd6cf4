import math

import pytest

from stylefinetune.checkpoint.early_stopping import best_test, describe_early_stop, is_new_best, stops_early
from stylefinetune.config.schema import CheckpointConfig, Config, TrainConfig


def config(patience=2, metric="accuracy"):
    return Config(train=TrainConfig(patience=patience), checkpoint=CheckpointConfig(best_metric=metric))


def results(*values, metric="accuracy"):
    other = {"accuracy": "loss", "loss": "accuracy"}[metric]
    return [{"iteration": 10.0 * index, metric: value, other: 0.5} for index, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ((), False),
        ((0.1,), False),
        ((0.1, 0.1), False),
        ((0.1, 0.1, 0.1), True),  # equally good is not better
        ((0.1, 0.05, 0.2), False),
        ((0.1, 0.2, 0.15), False),
        ((0.1, 0.2, 0.15, 0.19), True),
        ((0.1, 0.2, math.nan, math.nan), True),
        ((math.nan, math.nan), True),
    ],
)
def test_a_run_stops_after_as_many_tests_as_its_patience_that_are_not_better(values, stops):
    assert stops_early(results(*values), config()) == stops
    assert not stops_early(results(*values), config(patience=0))
    assert not stops_early(results(*values), config(patience=4))


def test_a_low_loss_is_good():
    assert stops_early(results(1.0, 1.2, 1.1, metric="loss"), config(metric="loss"))
    assert not stops_early(results(1.0, 0.9, 0.8, metric="loss"), config(metric="loss"))
    assert best_test(results(1.0, 0.8, 0.9, 0.8, metric="loss"), "loss") == 1


def test_a_test_is_the_new_best_once():
    tests = results(0.1, 0.3)
    assert is_new_best(tests, 10, config())
    assert not is_new_best(tests, 20, config())  # a later iteration, which is not tested yet
    assert not is_new_best(tests, 10, config(patience=0))
    assert not is_new_best(results(0.3), 0, config())  # nothing is trained yet
    assert not is_new_best(results(0.3, 0.3), 10, config())


def test_the_line_names_the_best_test():
    assert describe_early_stop(results(0.1, 0.3, 0.2, 0.1), config()) == (
        "Early stopping: the best accuracy is 0.3 of iteration 10, and 2 tests since then were not better; to continue "
        "this run, raise train.patience"
    )
    assert "of iteration 0, and the test since then was not better; " in describe_early_stop(
        results(0.3, 0.2), config(patience=1)
    )


def test_a_high_mean_average_precision_is_good_and_tests_without_it_do_not_count():
    tests = [{"iteration": 0.0, "accuracy": 0.9, "loss": 0.1}]  # before checkpoint.best_metric was changed
    tests += [{"iteration": 10.0 * n, "accuracy": 0.1, "loss": 1.0, "map": 0.5 + n / 10} for n in (1, 2)]
    assert best_test(tests, "map") == 2
    assert best_test(tests, "accuracy") == 0
    assert best_test(tests[:1], "map") is None
    assert not stops_early(tests, config(metric="map"))
    averaged = [test | {"ema_map": 1 - test["map"]} if "map" in test else test for test in tests]
    assert best_test(averaged, "map") == 1
