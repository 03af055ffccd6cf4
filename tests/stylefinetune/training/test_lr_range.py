import itertools
import math

import pytest

from stylefinetune.training.lr_range import RangeTest


def run(loss_of, low=1e-5, high=10.0, iterations=200):
    """Return a test in which each rate has this loss, until it diverges."""
    test = RangeTest(low, high, iterations)
    for rate in test.rates:
        test.add(loss_of(rate))
        if test.has_diverged:
            break
    return test


def falling(rate):
    """Return a loss that falls fastest at 0.01, and rises above 1."""
    return 3 - 2 / (1 + (0.01 / rate) ** 2) + 5 * max(0.0, rate - 1)


def test_the_rates_rise_exponentially_from_the_lowest_to_the_highest():
    rates = RangeTest(1e-4, 1e2, 7).rates
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100])


def test_the_rate_at_which_the_loss_falls_fastest_is_suggested():
    """The mean of the losses lags behind them, by less than a factor of 10."""
    test = run(falling)
    assert 0.01 < test.suggest() < 0.1


def test_the_first_mean_is_the_first_loss_and_later_ones_are_smooth():
    test = run(lambda rate: 2.0 if rate < 1e-3 else 1.0)
    assert test.points[0].smoothed == pytest.approx(2.0)
    smoothed = [point.smoothed for point in test.points]
    assert max(before - after for before, after in itertools.pairwise(smoothed)) < 0.05


@pytest.mark.parametrize("at_last", [1e9, math.inf, math.nan])
def test_the_test_ends_when_the_loss_diverges(at_last):
    test = run(lambda rate: at_last if rate > 1 else falling(rate))
    assert test.has_diverged
    assert 1 < test.points[-1].rate < 1.2
    assert 0.01 < test.suggest() < 0.1


def test_no_rate_is_suggested_if_the_loss_does_not_fall():
    assert run(lambda rate: 1 + rate).suggest() is None
    assert run(lambda _: math.nan).suggest() is None
