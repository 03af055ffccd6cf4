"""The geometry of the report's charts in per cent of their area, so that they can be drawn at any width."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle of a chart, in per cent of the chart's area."""

    x: float  # left edge
    y: float  # upper edge, from the top
    width: float
    height: float
    density: float  # intensity of its colour, from 0 to 1
    title: str  # a description


@dataclasses.dataclass(frozen=True)
class Tick:
    """A mark on an axis: its position in per cent, and its label."""

    position: float
    name: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """Boxes and axes; the y axis may be empty."""

    boxes: list[Box]
    x_axis: list[Tick]
    y_axis: list[Tick]


@dataclasses.dataclass(frozen=True)
class _Scale:
    """A logarithmic axis, divided into `bins` equal steps that include their lower edges."""

    low: float
    high: float
    bins: int

    @classmethod
    def of(cls, values: ArrayLike, steps_per_doubling: int) -> "_Scale":
        """Return an axis that covers the values."""
        low = math.floor(math.log2(max(1, int(np.min(values)))) * steps_per_doubling)
        high = math.floor(math.log2(max(1, int(np.max(values)))) * steps_per_doubling) + 1
        return cls(low / steps_per_doubling, high / steps_per_doubling, high - low)

    def edges(self) -> list[float]:
        return [2 ** (self.low + (self.high - self.low) * step / self.bins) for step in range(self.bins + 1)]

    def position(self, value: float) -> float:
        """Return the position of a value, in per cent."""
        return 100 * (math.log2(value) - self.low) / (self.high - self.low)

    def ticks(self, marks: Sequence[tuple[int, str]], min_gap: float) -> list[Tick]:
        """Return the marks that are on the axis and at least `min_gap` per cent apart."""
        ticks: list[Tick] = []
        for value, name in marks:
            position = self.position(value)
            if 0 <= position <= 100 and (not ticks or position - ticks[-1].position >= min_gap):
                ticks.append(Tick(position, name))
        return ticks


_PIXEL_MARKS = [(side, f"{side:,}") for side in (16, 32, 64, 128, 256, 500, 1024, 2048, 4096, 8192, 16384)]
_BYTE_MARKS = [(unit << shift, f"{1 << shift} {name}") for unit, name in ((1, "B"), (1 << 10, "KB"), (1 << 20, "MB"))
               for shift in (0, 2, 4, 6, 8)]  # fmt: skip


def draw_sizes(widths: ArrayLike, heights: ArrayLike) -> Chart:
    """Draw the number of pictures by width (to the right) and height (upwards), on logarithmic axes."""
    widths, heights = np.asarray(widths), np.asarray(heights)
    across, up = _Scale.of(widths, 8), _Scale.of(heights, 8)
    columns, rows = across.edges(), up.edges()
    counts = np.zeros((across.bins, up.bins))
    for start in range(0, len(widths), _BLOCK):  # NumPy copies its input as float64
        block = slice(start, start + _BLOCK)
        counts += np.histogram2d(widths[block], heights[block], [columns, rows])[0]
    largest = float(counts.max())
    boxes = [
        Box(
            x=100 * column / across.bins,
            y=100 * (up.bins - 1 - row) / up.bins,
            width=100 / across.bins,
            height=100 / up.bins,
            density=math.sqrt(float(counts[column, row]) / largest),
            title=f"{_range(columns, column)} wide, {_range(rows, row)} high: {int(counts[column, row]):,}",
        )
        for column, row in np.argwhere(counts).tolist()
    ]
    y_axis = [Tick(100 - tick.position, tick.name) for tick in up.ticks(_PIXEL_MARKS, 8)]
    return Chart(boxes, across.ticks(_PIXEL_MARKS, 12), y_axis)


def draw_bytes(sizes: ArrayLike) -> Chart:
    """Draw a histogram of the sizes of pictures in bytes, on a logarithmic axis."""
    scale = _Scale.of(sizes, 2)
    edges = scale.edges()
    counts: list[int] = np.histogram(sizes, edges)[0].tolist()
    largest = max(counts)
    boxes = [
        Box(
            x=100 * step / scale.bins,
            y=100 * (1 - count / largest),
            width=100 / scale.bins,
            height=100 * count / largest,
            density=1,
            title=f"{format_bytes(edges[step])} to {format_bytes(edges[step + 1])}: {count:,}",
        )
        for step, count in enumerate(counts)
        if count
    ]
    return Chart(boxes, scale.ticks(_BYTE_MARKS, 14), [])


def format_bytes(count: float) -> str:
    """Return a number of bytes with at most three digits: 44 KB, 1.4 MB."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TB"


def _range(edges: list[float], step: int) -> str:
    return f"{math.ceil(edges[step]):,} to {math.ceil(edges[step + 1]) - 1:,}"
