import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stylefinetune.prediction.class_output import open_class_output

CLASSES = ["Noir", 'so "called", Bokeh', "Hazy"]
NAMES = ["a, b.jpg", "ü\udcff.jpg"]
FOUND = [([2, 0], [0.75, 0.25]), ([1, 0], [0.123456789, 0.0])]


def write(kind, path, top=2):
    with open_class_output(kind, path, CLASSES, top, Path("runs/mine")) as write_batch:
        for name, found in zip(NAMES, FOUND, strict=True):
            write_batch([name], [found])


def test_the_table_is_caffes(tmp_path):
    write("table", tmp_path / "x")
    assert (tmp_path / "x").read_text() == (
        '---------- Prediction for a, b.jpg ----------\n0.7500 - "Hazy"\n0.2500 - "Noir"\n'
        "---------- Prediction for ü\\udcff.jpg ----------\n"
        '0.1235 - "so "called", Bokeh"\n0.0000 - "Noir"\n'
    )


def test_json_lines_have_a_picture_each(tmp_path):
    write("jsonl", tmp_path / "x")
    first, second = map(json.loads, (tmp_path / "x").read_text().splitlines())
    assert first["picture"] == "a, b.jpg"
    assert first["classes"][0] == {"class": "Hazy", "label": 2, "probability": 0.75}
    assert second["picture"] == "ü\\udcff.jpg"
    assert second["classes"][0] == {"class": CLASSES[1], "label": 1, "probability": 0.1234568}


def test_csv_has_a_header_and_quotes(tmp_path):
    write("csv", tmp_path / "x")
    with (tmp_path / "x").open(newline="") as file:
        header, first, second = csv.reader(file)
    assert header == ["picture", "class_1", "probability_1", "class_2", "probability_2"]
    assert first == ["a, b.jpg", "Hazy", "0.75", "Noir", "0.25"]
    assert second == ["ü\\udcff.jpg", CLASSES[1], "0.1234568", "Noir", "0"]


def test_parquet_has_lists_and_the_classes_in_its_metadata(tmp_path):
    write("parquet", tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["picture"].to_pylist() == ["a, b.jpg", "ü\\udcff.jpg"]
    assert table["labels"].to_pylist() == [[2, 0], [1, 0]]
    assert table["classes"].to_pylist() == [["Hazy", "Noir"], [CLASSES[1], "Noir"]]
    assert table["probabilities"].to_pylist()[1] == pytest.approx(FOUND[1][1])
    assert json.loads(table.schema.metadata[b"classes"]) == CLASSES
    assert table.schema.metadata[b"checkpoint"] == b"runs/mine"


def test_each_batch_reaches_stdout_at_once(capsys):
    with open_class_output("jsonl", None, CLASSES, 2, Path()) as write_batch:
        write_batch(NAMES[:1], FOUND[:1])
        assert json.loads(capsys.readouterr().out)["picture"] == NAMES[0]
