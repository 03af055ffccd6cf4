"""Measures where the time between two displayed iterations goes, by the clock of the host.

The device is not synchronized for this. A displayed iteration, a test and a checkpoint wait for the device anyway, so
the sum is right. In between, a GPU may still work on earlier steps while the host waits for pictures: the wait for data
is an upper limit of the time that the GPU is idle.
"""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """The seconds between two displayed iterations."""

    iterations: int
    train: float  # without tests and checkpoints
    data: float  # the part of `train` in which the loop waited for pictures
    test: float
    checkpoint: float  # pauses of training, not the writing in the background

    @property
    def data_wait(self) -> float:
        """The fraction of the training time in which the loop waited for pictures."""
        return self.data / self.train

    def describe(self, pictures: int, phases: dict[str, float], further: list[str], remaining: str) -> str:
        """Return a line of the log.

        Args:
            pictures: number of pictures that were trained on.
            phases: milliseconds of the last step by phase, as forward_ms.
            further: further parts of the line.
            remaining: how long the run takes from now; empty if unknown.
        """
        data, step = self.milliseconds["data_ms"], self.milliseconds["step_ms"]
        shares = ", ".join(f"{name.removesuffix('_ms')} {value:.3g}" for name, value in phases.items())
        of_step = f"; the last one: {shares}" if shares else ""
        parts = [
            f"    Speed: {pictures / self.train:.4g} images/s",
            f"{data + step:.4g} ms an iteration (data {data:.3g} ms, step {step:.4g} ms{of_step})",
            f"waiting for data {self.data_wait:.1%}",
        ]
        parts += further
        parts += [f"test {self.test:.3g} s"] if self.test else []
        parts += [f"checkpoint {self.checkpoint:.3g} s"] if self.checkpoint else []
        parts += [f"remaining {remaining}"] if remaining else []
        return ", ".join(parts)

    @property
    def milliseconds(self) -> dict[str, float]:
        """Milliseconds by phase: of data and step those of one iteration, of test and checkpoint those of all."""
        phases = {
            "data_ms": self.data / self.iterations,
            "step_ms": (self.train - self.data) / self.iterations,
            "test_ms": self.test,
            "checkpoint_ms": self.checkpoint,
        }
        return {name: round(seconds * 1000, 3) for name, seconds in phases.items()}


class StepClock:
    """Measures the StepTimes of a process; `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_first = True  # the first call of `take` is still to come
        self._train = 0.0  # seconds of training in all iterations since the first call
        self._iterations = 0
        self.start(0)

    def start(self, iteration: int) -> None:
        """Start the clock; `iteration` iterations are done."""
        self._done, self._began = iteration, self._clock()
        self._test = self._checkpoint = 0.0

    def add_test(self, seconds: float) -> None:
        """Add a test, for which training paused."""
        self._test += seconds

    def add_checkpoint(self, seconds: float) -> None:
        """Add a pause of training, for a checkpoint."""
        self._checkpoint += seconds

    def take(self, iterations: int, data: float) -> StepTimes:
        """Return the times since the last call; `iterations` are done, and the loop waited `data` s for pictures."""
        seconds = max(self._clock() - self._began - self._test - self._checkpoint, 1e-9)
        times = StepTimes(iterations - self._done, seconds, min(data, seconds), self._test, self._checkpoint)
        if not self._is_first:  # libraries are initialized in the first iteration
            self._train += times.train
            self._iterations += times.iterations
        self._is_first = False
        self.start(iterations)
        return times

    @property
    def seconds_per_iteration(self) -> float | None:
        """The mean since the first call of `take`, without tests and checkpoints; None before the second."""
        return self._train / self._iterations if self._iterations else None
