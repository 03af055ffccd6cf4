"""Stops a run whose tests do not improve any more, as a function of the tests that its checkpoints record."""

import math

from stylefinetune.checkpoint.folders import metric_of
from stylefinetune.config.schema import Config

Tests = list[dict[str, float]]  # iteration, accuracy, loss and perhaps map of each test of a run, in order


def best_test(tests: Tests, metric: str) -> int | None:
    """Return the index of the test with the highest accuracy or map or the lowest loss, the earliest of equal ones.

    None if there is none, apart from tests that are NaN.
    """
    sign = -1.0 if metric == "loss" else 1.0
    values = [metric_of(test, metric) for test in tests]
    finite = [index for index, value in enumerate(values) if not math.isnan(value)]
    return max(finite, key=lambda index: sign * values[index], default=None)


def is_new_best(tests: Tests, iteration: int, config: Config) -> bool:
    """Return whether, with train.patience, the last test is the best so far and is that of this iteration, not 0."""
    best = best_test(tests, config.checkpoint.best_metric)
    is_last = best is not None and best == len(tests) - 1 and tests[best]["iteration"] == iteration
    return config.train.patience > 0 and iteration > 0 and is_last


def stops_early(tests: Tests, config: Config) -> bool:
    """Return whether the last train.patience tests were not better than the best one before."""
    patience = config.train.patience
    if patience == 0:
        return False
    best = best_test(tests, config.checkpoint.best_metric)
    return len(tests) - (0 if best is None else best + 1) >= patience


def describe_early_stop(tests: Tests, config: Config) -> str:
    """Return the line of a run that stops early."""
    metric, patience = config.checkpoint.best_metric, config.train.patience
    since = "the test since then was" if patience == 1 else f"{patience} tests since then were"
    index = best_test(tests, metric)
    test = None if index is None else tests[index]
    best = f"is {metric_of(test, metric):.6g} of iteration {test['iteration']:.0f}" if test else "is NaN"
    return (
        f"Early stopping: the best {metric} {best}, and {since} not better; to continue this run, raise train.patience"
    )
