"""Writes the page: one HTML file, which can be read offline."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stylefinetune.run_report import charts
from stylefinetune.run_report.comparison import compare_predictions, differing_settings
from stylefinetune.run_report.history import RunHistory
from stylefinetune.run_report.pictures import find_mistakes, find_suspect_pictures


def render_page(runs: Sequence[RunHistory]) -> str:
    """Return the HTML of a page about at least one run."""
    environment = Environment(
        loader=PackageLoader("stylefinetune.run_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    comparisons = [compare_predictions(first, second) for first, second in itertools.combinations(runs, 2)]
    return environment.get_template("runs.html").render(
        runs=runs,
        charts=_general_charts(runs),
        confusion={run.name: chart for run in runs if (chart := charts.confusion(run))},
        mistakes={run.name: find_mistakes(run) for run in runs},
        suspects={run.name: find_suspect_pictures(run) for run in runs},
        settings=differing_settings(runs) if len(runs) > 1 else {},
        comparisons=[comparison for comparison in comparisons if comparison],
        script=Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")),  # noqa: S704 -- a library's code
        json=_embed_json,
    )


def _general_charts(runs: Sequence[RunHistory]) -> list[tuple[str, str, charts.Spec]]:
    """Return (section, heading, chart) of the charts that can be drawn."""
    found = [
        ("training", "Test accuracy", charts.curves(runs, "test", "accuracy", "accuracy")),
        ("training", "Test mean average precision", charts.curves(runs, "test", "map", "mean average precision")),
        ("training", "Test loss", charts.curves(runs, "test", "loss", "loss")),
        ("training", "Training loss", charts.curves(runs, "train", "loss", "loss")),
        ("training", "Learning rate", charts.curves(runs, "train", "lr", "learning rate")),
        ("classes", "Recall of each class", charts.class_bars(runs)),
        ("classes", "Calibration", charts.calibration(runs)),
        ("speed", "Pictures per second", charts.curves(runs, "train", "images_per_second", "pictures per second")),
        ("speed", "Time by activity", charts.time_bars(runs)),
    ]
    return [(section, heading, chart) for section, heading, chart in found if chart]


def _embed_json(value: Any) -> Markup:  # noqa: ANN401 -- any value of JSON
    """Return JSON for a script element, which `</script>` in a text would end."""
    return Markup(json.dumps(value).replace("<", "\\u003c"))  # noqa: S704 -- escaped


def _setting(value: Any) -> str:  # noqa: ANN401 -- any value of a config
    return "not set" if value is None else json.dumps(value) if isinstance(value, (list, dict)) else str(value)
