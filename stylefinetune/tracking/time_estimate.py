"""Estimates how long the rest of a run takes."""

import datetime as dt
import math
import time
from collections.abc import Callable

from stylefinetune.config.schema import Config

ITERATIONS = 20  # after which the estimate is made
_LONGEST = 10 * 365 * 24 * 3600.0  # seconds; a longer estimate would have no date


def _local_time() -> dt.datetime:
    return dt.datetime.now(dt.UTC).astimezone()


class TimeEstimate:
    """Measures the first iterations of a process, except the first one, in which libraries are initialized.

    The run starts or resumes from iteration `start`. `clock` returns seconds, `now` the date and time.
    """

    def __init__(
        self,
        config: Config,
        start: int,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = _local_time,
    ) -> None:
        self._train = config.train
        self._has_tests = config.data.test.split != ""
        self._first, self._last = start + 1, start + ITERATIONS
        self._clock, self._now = clock, now
        self._began = self._paused = 0.0
        self._tests: list[float] = []  # seconds of each test

    def add_test(self, seconds: float) -> None:
        """Add a test, for which training paused."""
        self._tests.append(seconds)
        self._paused += seconds

    def add_pause(self, seconds: float) -> None:
        """Add a pause of training, for a checkpoint."""
        self._paused += seconds

    def is_measured(self, iterations: int) -> bool:
        """Return whether the clock is read after `iterations` iterations; the device must have finished them."""
        return iterations in (self._first, self._last) and self._last < self._train.max_iter

    def measure(self, iterations: int) -> str | None:
        """Read the clock and return the estimate, a line, after the last of the measured iterations."""
        if iterations == self._first:
            self._began, self._paused = self._clock(), 0.0
            return None
        seconds = (self._clock() - self._began - self._paused) / (self._last - self._first)
        remaining, tests = self._train.max_iter - iterations, self._remaining_tests(iterations)
        rest = self.remaining(iterations, seconds)
        with_tests = f", tests: {tests:,}" if self._tests else ""
        return (
            f"An iteration takes {seconds:.3g} s; the rest (iterations: {remaining:,}{with_tests}) takes about {rest}, "
            f"until {self._now() + rest:%Y-%m-%d %H:%M}"
        )

    def remaining(self, iterations: int, seconds: float) -> dt.timedelta:
        """Return how long the rest takes after `iterations`, of `seconds` each, with tests as long as those so far."""
        test_seconds = sum(self._tests) / len(self._tests) if self._tests else 0.0
        training = (self._train.max_iter - iterations) * seconds
        return dt.timedelta(seconds=round(min(training + self._remaining_tests(iterations) * test_seconds, _LONGEST)))

    def _remaining_tests(self, iterations: int) -> int:
        """Count the tests from this number of iterations to the end, where the last one is."""
        if not self._has_tests:
            return 0
        interval = self._train.test_interval
        if interval == 0:
            return 1
        return math.ceil(self._train.max_iter / interval) - math.ceil(iterations / interval) + 1
