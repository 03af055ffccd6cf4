"""Draws the result of a run as pages of HTML and as a table, which Weights & Biases shows in panels.

The pages are part of the row of the last test. The table, which W&B sorts and filters, is an artifact: to log it, W&B
waits for its server.
"""

import base64
import io
from typing import Any

import jinja2
import wandb
from PIL import Image

from stylefinetune.tracking.run_facts import Example, RunResult

_MAX_CLASSES = 100  # of a confusion matrix
_COLUMNS = ("kind", "picture", "class", "predicted", "probability", "probability_of_class", "key")  # of the table
_STYLE = """<!doctype html><meta charset="utf-8"><style>
body { font: 14px system-ui, sans-serif } table { border-collapse: collapse } th { text-align: left; font-weight: 600 }
td, th { padding: 3px 8px; border: 1px solid #ccc } img { max-width: 112px; display: block }
</style>"""
_PREDICTIONS = """
<table><tr><th>picture<th>class<th>predicted<th>probability<th>probability of its class<th>key</tr>
{% for one in examples -%}
<tr><td>{% if one.jpeg %}<img alt="" src="data:image/jpeg;base64,{{ one.jpeg | base64 }}">{% endif %}<td>{{ one.label }}
<td>{{ one.predicted }}<td>{{ "%.3f" | format(one.probability) }}<td>{{ "%.3f" | format(one.true_probability) }}
<td>{{ one.key }}</tr>
{% endfor %}</table>"""
_CONFUSION = """
<table><tr><th>class \\ predicted{% for name in classes %}<th>{{ name }}{% endfor %}</tr>
{% for name in classes %}{% set row = confusion[loop.index0] -%}
<tr><th>{{ name }}{% for count in row %}
<td style="background: rgba(31, 119, 180, {{ "%.2f" | format(0.7 * count / ([row | sum, 1] | max)) }})">{{ count }}
{%- endfor %}</tr>
{% endfor %}</table>"""
_CALIBRATION = """
<table><tr><th>mean probability<th>accuracy<th>pictures</tr>
{% for count, probability, accuracy in calibration -%}
<tr><td>{{ "%.3f" | format(probability) }}<td>{{ "%.3f" | format(accuracy) }}<td>{{ count }}</tr>
{% endfor %}</table>"""


def draw_result(result: RunResult) -> dict[str, Any]:
    """Return the values of a row by name: numbers, and pages with the confusion matrix, calibration and pictures."""
    values: dict[str, Any] = {f"final/{name}": value for name, value in result.values.items()}
    values["final/worst"] = _page(_PREDICTIONS, examples=result.worst)
    values["final/best"] = _page(_PREDICTIONS, examples=result.best)
    values["final/calibration"] = _page(_CALIBRATION, calibration=result.calibration)
    if len(result.classes) <= _MAX_CLASSES:
        values["final/confusion"] = _page(_CONFUSION, classes=result.classes, confusion=result.confusion)
    return values


def draw_table(result: RunResult) -> wandb.Table:
    """Return the worst and the best predictions with their pictures, at most 200 rows."""
    table = wandb.Table(columns=[*_COLUMNS])
    for kind, examples in (("worst", result.worst), ("best", result.best)):
        for one in examples:
            picture = wandb.Image(Image.open(io.BytesIO(one.jpeg)), file_type="jpg") if one.jpeg else None
            table.add_data(kind, picture, one.label, one.predicted, one.probability, one.true_probability, one.key)
    return table


def _page(template: str, **values: list[Example] | list[Any]) -> wandb.Html:
    environment = jinja2.Environment(autoescape=True)
    environment.filters["base64"] = _base64
    return wandb.Html(_STYLE + environment.from_string(template).render(**values), inject=False)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
