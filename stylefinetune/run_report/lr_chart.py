"""Draws the losses of a learning rate range test as a PNG."""

from collections.abc import Sequence

import altair as alt
import vl_convert

from stylefinetune.training.lr_range import RangePoint

_BLUE, _GREY, _RED = "#0072B2", "#888888", "#D55E00"
_TOP = 1.2  # times the first loss; a diverging loss would hide the others


def draw_range_test(points: Sequence[RangePoint], suggested: float | None) -> bytes:
    """Return a PNG: the losses, their mean and the suggested rate, by the rate on a logarithmic scale."""
    rows = [{"rate": point.rate, "loss": point.loss, "mean": point.smoothed} for point in points]
    top = _TOP * max(points[0].smoothed, min(point.smoothed for point in points))
    rate = alt.X("rate:Q", title="base learning rate", scale=alt.Scale(type="log"), axis=alt.Axis(format="~e"))
    bottom = min((row["loss"] for row in rows if row["loss"] < top), default=0.0)
    scale = alt.Scale(domain=[0.95 * bottom, top], clamp=False)
    base = alt.Chart(alt.Data(values=rows)).encode(x=rate)
    losses = base.mark_point(size=12, color=_GREY, clip=True).encode(y=alt.Y("loss:Q", title="loss", scale=scale))
    chart = losses + base.mark_line(color=_BLUE, clip=True).encode(y=alt.Y("mean:Q", scale=scale))
    if suggested is not None:
        mark = alt.Chart(alt.Data(values=[{"rate": suggested}])).mark_rule(color=_RED, strokeDash=[4, 4])
        chart += mark.encode(x=rate)
    return vl_convert.vegalite_to_png(chart.properties(width=600, height=300).to_dict(), scale=2)
