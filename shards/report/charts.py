"""The geometry of the report's charts, in shares of their area, so that a page draws them at any width."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle of a chart; x and y in per cent of its area, y from above.

    Attributes:
        x: left edge.
        y: upper edge.
        width: as x.
        height: as y.
        shade: 0 to 1, for how much stands there.
        title: what it says, in words.
    """

    x: float
    y: float
    width: float
    height: float
    shade: float
    title: str


@dataclasses.dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in per cent, and its words."""

    place: float
    name: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """Boxes and axes; a y axis that is empty is told by the boxes' titles."""

    boxes: list[Box]
    x_axis: list[Tick]
    y_axis: list[Tick]


@dataclasses.dataclass(frozen=True)
class _Scale:
    """A logarithmic axis of `bins` equal steps; a value at an edge belongs to the step that begins there."""

    low: float
    high: float
    bins: int

    @classmethod
    def of(cls, values: Sequence[int], steps_per_doubling: int) -> "_Scale":
        """Covers the values, from one power of two's step to another."""
        low = math.floor(math.log2(max(1, min(values))) * steps_per_doubling)
        high = math.floor(math.log2(max(1, *values)) * steps_per_doubling) + 1
        return cls(low / steps_per_doubling, high / steps_per_doubling, high - low)

    def edges(self) -> list[float]:
        return [2 ** (self.low + (self.high - self.low) * step / self.bins) for step in range(self.bins + 1)]

    def place(self, value: float) -> float:
        """Returns where a value stands, in per cent."""
        return 100 * (math.log2(value) - self.low) / (self.high - self.low)

    def ticks(self, marks: Sequence[tuple[int, str]], least_gap: float) -> list[Tick]:
        """Returns the marks that are on the axis and `least_gap` per cent apart."""
        ticks: list[Tick] = []
        for value, name in marks:
            place = self.place(value)
            if 0 <= place <= 100 and (not ticks or place - ticks[-1].place >= least_gap):
                ticks.append(Tick(place, name))
        return ticks


_PIXEL_MARKS = [(side, f"{side:,}") for side in (16, 32, 64, 128, 256, 500, 1024, 2048, 4096, 8192, 16384)]
_BYTE_MARKS = [(unit << shift, f"{1 << shift} {name}") for unit, name in ((1, "B"), (1 << 10, "KB"), (1 << 20, "MB"))
               for shift in (0, 2, 4, 6, 8)]  # fmt: skip


def draw_sizes(widths: Sequence[int], heights: Sequence[int]) -> Chart:
    """Draws how many pictures have which width (to the right) and height (upwards), both logarithmic."""
    across, up = _Scale.of(widths, 8), _Scale.of(heights, 8)
    columns, rows = across.edges(), up.edges()
    counts, _, _ = np.histogram2d(widths, heights, [np.array(columns), np.array(rows)])
    most = float(counts.max())
    boxes = [
        Box(
            x=100 * column / across.bins,
            y=100 * (up.bins - 1 - row) / up.bins,
            width=100 / across.bins,
            height=100 / up.bins,
            shade=math.sqrt(float(counts[column, row]) / most),
            title=f"{_range(columns, column)} wide, {_range(rows, row)} high: {int(counts[column, row]):,}",
        )
        for column, row in np.argwhere(counts).tolist()
    ]
    y_axis = [Tick(100 - tick.place, tick.name) for tick in up.ticks(_PIXEL_MARKS, 8)]
    return Chart(boxes, across.ticks(_PIXEL_MARKS, 12), y_axis)


def draw_bytes(sizes: Sequence[int]) -> Chart:
    """Draws a histogram of how many bytes pictures have, logarithmic to the right."""
    scale = _Scale.of(sizes, 2)
    edges = scale.edges()
    counts: list[int] = np.histogram(sizes, edges)[0].tolist()
    most = max(counts)
    boxes = [
        Box(
            x=100 * place / scale.bins,
            y=100 * (1 - count / most),
            width=100 / scale.bins,
            height=100 * count / most,
            shade=1,
            title=f"{format_bytes(edges[place])} to {format_bytes(edges[place + 1])}: {count:,}",
        )
        for place, count in enumerate(counts)
        if count
    ]
    return Chart(boxes, scale.ticks(_BYTE_MARKS, 14), [])


def format_bytes(count: float) -> str:
    """Returns a count of bytes with three figures at most: 44 KB, 1.4 MB."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TB"


def _range(edges: list[float], place: int) -> str:
    return f"{math.ceil(edges[place]):,} to {math.ceil(edges[place + 1]) - 1:,}"
