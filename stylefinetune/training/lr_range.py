"""Finds a learning rate by training with rates that rise exponentially: the learning rate range test.

Sources: Smith, "Cyclical Learning Rates for Training Neural Networks" (2017); fastai's lr_find, whose smoothing of the
losses and end these are.
"""

import dataclasses
import math

import numpy as np

_SMOOTHING = 0.98  # of the exponential mean of the losses
_DIVERGED = 4.0  # times the lowest smoothed loss
_WARM_UP = 0.1  # part of the iterations whose mean has too few losses to compare


@dataclasses.dataclass(frozen=True)
class RangePoint:
    """An iteration of the test."""

    rate: float
    loss: float
    smoothed: float  # exponential mean of the losses so far


class RangeTest:
    """The rates of a range test over `iterations`, and the losses so far."""

    def __init__(self, low: float, high: float, iterations: int) -> None:
        self.rates: list[float] = np.geomspace(low, high, iterations).tolist()
        self.points: list[RangePoint] = []
        self._sum = 0.0

    def add(self, loss: float) -> None:
        """Add the loss of the next iteration."""
        count = len(self.points)
        self._sum = _SMOOTHING * self._sum + (1 - _SMOOTHING) * loss
        smoothed = self._sum / (1 - _SMOOTHING ** (count + 1))
        self.points.append(RangePoint(self.rates[count], loss, smoothed))

    @property
    def has_diverged(self) -> bool:
        """Whether higher rates are of no use: the loss is not finite, or far above its lowest value."""
        last = self.points[-1].smoothed
        return not math.isfinite(last) or last > _DIVERGED * min(point.smoothed for point in self.points)

    def suggest(self) -> float | None:
        """Return the rate at which the smoothed loss falls fastest, before its minimum; None if it does not fall."""
        finite = [point for point in self.points if math.isfinite(point.smoothed)]
        first = math.ceil(_WARM_UP * len(self.rates))
        losses = np.array([point.smoothed for point in finite])
        if len(losses) < first + 3:
            return None
        lowest = first + int(losses[first:].argmin())
        if lowest < first + 2:
            return None
        slopes = np.gradient(losses[first : lowest + 1], np.log([point.rate for point in finite[first : lowest + 1]]))
        return finite[first + int(slopes.argmin())].rate
