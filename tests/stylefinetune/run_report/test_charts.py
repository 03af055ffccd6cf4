import re
from pathlib import Path

import vl_convert

from stylefinetune.run_report import charts
from stylefinetune.run_report.history import RunHistory


def run(name="a", losses=(), classes=(), accuracies=(), evaluation=None):
    entries = [{"phase": "train", "iteration": at, "loss": loss} for at, loss in losses]
    entries += [{"phase": "test", "iteration": at, "accuracy": accuracy} for at, accuracy in accuracies]
    return RunHistory(name, Path(name), {}, list(classes), entries, evaluation, {})


def values(chart):
    return [row for layer in chart.get("layer", [chart]) for row in layer["data"]["values"]]


def test_a_curve_has_the_points_of_each_run():
    chart = charts.curves([run("a", [(0, 3.0), (20, 1.0)]), run("b", [(0, 2.0), (20, 2.5)])], "train", "loss", "loss")
    assert values(chart) == [
        {"run": "a", "iteration": 0, "value": 3.0},
        {"run": "a", "iteration": 20, "value": 1.0},
        {"run": "b", "iteration": 0, "value": 2.0},
        {"run": "b", "iteration": 20, "value": 2.5},
    ]
    assert charts.curves([run()], "train", "loss", "loss") is None


def drawn_marks(chart):
    """The number of marks of each kind in the drawing: lines with a length, and symbols."""
    svg = vl_convert.vegalite_to_svg(chart | {"width": 300})
    lines = re.findall(r'aria-roledescription="line mark" [^>]*d="M[^"]*L', svg)
    return len(lines), len(re.findall('aria-roledescription="point"', svg))


def test_a_curve_of_one_point_is_a_dot():
    one, two = run("one", [(0, 2.0)], accuracies=[(0, 0.5)]), run("two", [(0, 3.0), (20, 1.0)])
    assert drawn_marks(charts.curves([one], "train", "loss", "loss")) == (0, 1)
    assert drawn_marks(charts.curves([one, two], "train", "loss", "loss")) == (1, 1)
    assert drawn_marks(charts.curves([two], "train", "loss", "loss")) == (1, 0)
    assert drawn_marks(charts.curves([one], "test", "accuracy", "accuracy")) == (0, 1)


def test_a_long_curve_is_averaged():
    losses = [(number, float(number)) for number in range(100_000)]
    rows = values(charts.curves([run("a", losses)], "train", "loss", "loss"))
    assert len(rows) == charts.MAX_POINTS
    assert rows[0]["value"] == sum(range(100)) / 100


def test_the_published_curves_of_caffe_are_drawn_beside_runs_on_its_classes():
    styles = ["Noir", "Bokeh", "Hazy", *map(str, range(17))]
    chart = charts.curves([run("a", classes=styles, accuracies=[(0, 0.1), (500, 0.2)])], "test", "accuracy", "accuracy")
    rows = {(row["run"], row["iteration"]): row["value"] for row in values(chart)}
    assert rows["Caffe, fine-tuned", 1000] == 0.2356
    assert rows["Caffe, from scratch", 1000] == 0.0572
    assert ("Caffe, fine-tuned", 100_000) not in rows
    other = charts.curves([run("a", classes=["x", "y"], accuracies=[(0, 0.1)])], "test", "accuracy", "accuracy")
    assert {row["run"] for row in values(other)} == {"a"}


def evaluation(names, confusion):
    by_class = [
        {"name": name, "count": sum(row), "recall": row[label] / max(sum(row), 1)}
        for label, (name, row) in enumerate(zip(names, confusion, strict=True))
    ]
    calibration = [{"count": 0, "confidence": None, "accuracy": None}, {"count": 4, "confidence": 0.9, "accuracy": 0.5}]
    return {"by_class": by_class, "confusion": confusion, "calibration": calibration}


def test_charts_by_class_and_probability():
    one = run("a", evaluation=evaluation(["x", "y", "z"], [[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert {row["class"]: row["recall"] for row in values(charts.class_bars([one, run("b")]))} == {"x": 0.75, "y": 1}
    cells = {(row["true"], row["predicted"]): row["share"] for row in values(charts.confusion(one))}
    assert cells == {("x", "x"): 0.75, ("x", "y"): 0.25, ("y", "y"): 1}
    assert {"run": "a", "confidence": 0.9, "accuracy": 0.5, "pictures": 4} in values(charts.calibration([one]))
    assert (charts.class_bars([run()]), charts.confusion(run()), charts.calibration([run()])) == (None, None, None)


def test_of_many_classes_the_worst_are_drawn():
    names = [f"class {number}" for number in range(100)]
    confusion = [
        [number if at == number else 100 - number if at == 99 else 0 for at in range(100)] for number in range(100)
    ]
    one = run("a", evaluation=evaluation(names, confusion))
    drawn = {row["class"] for row in values(charts.class_bars([one]))}
    assert drawn == set(names[: charts.MAX_CLASSES])
    assert charts.confusion(one) is None
