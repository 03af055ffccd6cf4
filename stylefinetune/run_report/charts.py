"""Draws the charts of the page, as Vega-Lite specifications."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from stylefinetune.run_report.history import RunHistory

Spec = dict[str, Any]

MAX_POINTS = 1000  # of a curve; more would not be seen, and would make the page slow
MAX_CLASSES = 60  # of the charts by class
_ROW = 18  # pixels of a class
# Okabe and Ito's colours, which people with colour blindness can tell apart; without yellow and black, which are hard
# to see on a light or a dark page.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_GREY = "#888888"
# Accuracies that Caffe's example publishes: fine-tuned, and trained from random weights.
_CAFFE = {
    "Caffe, fine-tuned": [(0, 0.0308), (1000, 0.2356), (100_000, 0.3916)],
    "Caffe, from scratch": [(0, 0.0366), (1000, 0.0572)],
}


def curves(runs: Sequence[RunHistory], phase: str, value: str, title: str) -> Spec | None:
    """Return a chart of a value by iteration, a line for each run; None if no run has the value."""
    rows = [
        {"run": run.name, "iteration": iteration, "value": number}
        for run in runs
        for iteration, number in _thin(run.series(phase, value))
    ]
    if not rows:
        return None
    reference = _caffe_rows(runs) if (phase, value) == ("test", "accuracy") else []
    encoding: dict[str, Any] = {
        "x": alt.X("iteration:Q", title="iteration", scale=alt.Scale(nice=False)),
        # Without a format, the tick of a constant value, such as a learning rate of 0.002, is rounded to 0.
        "y": alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g")),
        "color": _by_run(runs, list(dict.fromkeys(row["run"] for row in reference))),
        "tooltip": ["run:N", "iteration:Q", alt.Tooltip("value:Q", format=".6~g")],
    }
    points = phase == "test" and len(rows) <= MAX_POINTS // 4
    chart = alt.Chart(alt.Data(values=rows)).mark_line(point=points).encode(**encoding)
    if single := [] if points else _single_points(rows):
        chart += alt.Chart(alt.Data(values=single)).mark_point(filled=True, opacity=1).encode(**encoding)
    if reference:
        chart += alt.Chart(alt.Data(values=reference)).mark_line(strokeDash=[4, 4], point=True).encode(**encoding)
    return _finish(chart, f"{title} by iteration")


def class_bars(runs: Sequence[RunHistory]) -> Spec | None:
    """Return the recall of each class, a bar for each evaluated run; of many classes, those with the lowest recall."""
    rows = [
        {"run": run.name, "class": metrics["name"], "recall": metrics["recall"], "pictures": metrics["count"]}
        for run in runs
        if run.evaluation
        for metrics in run.evaluation["by_class"]
        if metrics["count"]
    ]
    if not rows:
        return None
    lowest = list(dict.fromkeys(row["class"] for row in sorted(rows, key=lambda row: row["recall"])))[:MAX_CLASSES]
    rows = [row for row in rows if row["class"] in lowest]
    order = alt.EncodingSortField(field="recall", op="max", order="descending")
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("recall:Q", title="recall", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("class:N", title=None, sort=order, axis=alt.Axis(labelLimit=200)),
            yOffset=alt.YOffset("run:N"),
            color=_by_run(runs),
            tooltip=["run:N", "class:N", alt.Tooltip("recall:Q", format=".3f"), "pictures:Q"],
        )
    )
    return _finish(chart, "Recall of each class", height=_ROW * len({(row["class"], row["run"]) for row in rows}))


def confusion(run: RunHistory) -> Spec | None:
    """Return the confusion matrix of a run: the share of each true class that is predicted as each class.

    None if it is not evaluated, has too many classes to show, or if pictures have several labels.
    """
    evaluation = run.evaluation
    if not evaluation or "confusion" not in evaluation or len(evaluation["by_class"]) > MAX_CLASSES:
        return None
    names = [metrics["name"] for metrics in evaluation["by_class"]]
    rows = [
        {"true": names[true], "predicted": names[predicted], "pictures": count, "share": count / sum(counts)}
        for true, counts in enumerate(evaluation["confusion"])
        for predicted, count in enumerate(counts)
        if count
    ]
    by_name = alt.Scale(domain=names)
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect(cursor="pointer")
        .encode(
            x=alt.X("predicted:N", title="predicted class", scale=by_name, axis=alt.Axis(labelAngle=-60, grid=True)),
            y=alt.Y("true:N", title="true class", scale=by_name, axis=alt.Axis(grid=True)),
            color=alt.Color(
                "share:Q",
                title="share",
                scale=alt.Scale(scheme="blues", domain=[0, 1]),
                legend=alt.Legend(format=".0%"),
            ),
            tooltip=["true:N", "predicted:N", "pictures:Q", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    return _finish(chart, "Confusion matrix", height=_ROW * len(names))


def calibration(runs: Sequence[RunHistory]) -> Spec | None:
    """Return the accuracy by the probability of the predicted class, with the diagonal of exact probabilities."""
    rows = [
        {"run": run.name, "confidence": part["confidence"], "accuracy": part["accuracy"], "pictures": part["count"]}
        for run in runs
        if run.evaluation
        for part in run.evaluation.get("calibration", ())  # none for pictures with several labels
        if part["count"]
    ]
    if not rows:
        return None
    exact = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(strokeDash=[4, 4], color=_GREY)
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("confidence:Q", title="probability of the predicted class", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1])),
            color=_by_run(runs),
            tooltip=[
                "run:N",
                alt.Tooltip("confidence:Q", format=".3f"),
                alt.Tooltip("accuracy:Q", format=".3f"),
                "pictures:Q",
            ],
        )
    )
    return _finish(exact.encode(x="x:Q", y="y:Q") + points, "Calibration")


def time_bars(runs: Sequence[RunHistory]) -> Spec | None:
    """Return where the time of each run went."""
    rows = [
        {"run": run.name, "activity": activity, "seconds": round(seconds, 1)}
        for run in runs
        for activity, seconds in run.seconds().items()
        if seconds
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="seconds"),
            y=alt.Y("run:N", title=None, axis=alt.Axis(labelLimit=200)),
            color=alt.Color("activity:N", title="activity", scale=alt.Scale(range=list(COLOURS))),
            tooltip=["run:N", "activity:N", "seconds:Q"],
        )
    )
    return _finish(chart, "Time by activity", height=2 * _ROW * len({row["run"] for row in rows}))


def _thin(series: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most MAX_POINTS points, each the mean of consecutive ones."""
    if len(series) <= MAX_POINTS:
        return series
    parts = np.array_split(np.array(series, np.float64), MAX_POINTS)
    return [(round(iteration), value) for iteration, value in (part.mean(axis=0).tolist() for part in parts)]


def _single_points(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of runs with one row, since a line of one point is invisible."""
    counts = Counter(row["run"] for row in rows)
    return [row for row in rows if counts[row["run"]] == 1]


def _caffe_rows(runs: Sequence[RunHistory]) -> list[dict[str, Any]]:
    """Return Caffe's published accuracies, up to the longest run, if a run has the classes of its example."""
    if not any({"Noir", "Bokeh", "Hazy"} <= set(run.classes) and len(run.classes) == 20 for run in runs):
        return []
    longest = max((iteration for run in runs for iteration, _ in run.series("test", "accuracy")), default=0)
    return [
        {"run": name, "iteration": iteration, "value": accuracy}
        for name, points in _CAFFE.items()
        for iteration, accuracy in points
        if iteration <= max(longest, 1000)
    ]


def _by_run(runs: Sequence[RunHistory], references: Sequence[str] = ()) -> alt.Color:
    """Return a colour for each run, and grey for the curves to compare with."""
    names = [*(run.name for run in runs), *references]
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(runs))] + [_GREY] * len(references)
    legend = alt.Legend(title=None, orient="top", labelLimit=300, columns=3) if len(names) > 1 else None
    return alt.Color("run:N", scale=alt.Scale(domain=names, range=colours), legend=legend)


def _finish(chart: Any, description: str, height: int = 260) -> Spec:  # noqa: ANN401 -- any of altair's charts
    """Return the specification, in the colours of the page's text, so that it fits a light and a dark page."""
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    size = {"width": "container", "height": height, "autosize": alt.AutoSizeParams(type="fit-x", contains="padding")}
    return (
        chart.properties(**size, description=description, background="transparent")
        .configure(font="inherit")
        .configure_axis(**text, gridColor=_GREY, gridOpacity=0.25, domainColor=_GREY, tickColor=_GREY)
        .configure_legend(**text)
        .configure_view(stroke=None)
        .to_dict()
    )
