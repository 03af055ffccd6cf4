import base64
import dataclasses
import re

from stylefinetune.tracking.dashboards.wandb_media import draw_result, draw_table
from stylefinetune.tracking.run_facts import Example
from tests.run_facts import JPEG, RESULT


def page(values, name):
    return values[f"final/{name}"].html


def cells(text):
    return [cell.strip() for cell in re.findall(r"<td[^>]*>([^<]*)", text)]


def test_the_pages_have_the_numbers_of_the_result():
    values = draw_result(RESULT)
    assert values["final/balanced_accuracy"] == 0.75
    assert cells(page(values, "confusion")) == ["3", "1", "0", "2"]
    assert cells(page(values, "calibration")) == ["0.700", "0.750", "4", "0.950", "1.000", "2"]
    assert cells(page(values, "worst"))[1:] == ["Noir", "Bokeh", "0.900", "0.100", "00007"]
    assert base64.b64encode(JPEG).decode() in page(values, "worst")
    assert "<img" not in page(values, "best")


def test_the_table_has_a_row_for_each_prediction_with_its_picture():
    table = draw_table(RESULT)
    kinds, pictures, *others = zip(*table.data, strict=True)
    assert kinds == ("worst", "best")
    assert ([picture.image.size for picture in pictures[:1]], pictures[1]) == ([(2, 2)], None)
    named = dict(zip(table.columns[2:], others, strict=True))
    assert named == {
        "class": ("Noir", "Bokeh"),
        "predicted": ("Bokeh", "Bokeh"),
        "probability": (0.9, 0.97),
        "probability_of_class": (0.1, 0.97),
        "key": ("00007", "00009"),
    }


def test_names_are_text_and_not_html():
    one = Example("1", "<b>A & B</b>", "C", 0.5, 0.5, b"")
    text = page(draw_result(dataclasses.replace(RESULT, worst=[one])), "worst")
    assert "&lt;b&gt;A &amp; B&lt;/b&gt;" in text
    assert "<b>" not in text


def test_many_classes_have_no_confusion_matrix():
    names = [str(number) for number in range(101)]
    assert "final/confusion" not in draw_result(dataclasses.replace(RESULT, classes=names))
