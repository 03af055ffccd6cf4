import json
import math

import pyarrow as pa
import pytest

from shards.errors import ShardsError
from shards.url_list.convert import CONVERTED_SCHEMA, convert_rows, label_list
from tests.recipes import make_recipe

URL = "http://h/1"


def convert(*rows: dict, **settings) -> list[dict]:
    tables = convert_rows(iter([dict(row) for row in rows]), "list.csv", make_recipe(**settings))
    table = pa.concat_tables(tables)
    assert table.schema == CONVERTED_SCHEMA
    return table.to_pylist()


def test_rows_become_text_and_the_other_columns_json():
    rows = [
        {"z": 2**70, "id": 7, "image_url": f" {URL} ", "split": "val", "label": "noir ", "title": "café"},
        {"image_url": None, "label": 0, "split": "train", "a": [1, {"b": None}]},
    ]
    assert convert(*rows) == [
        {"id": "7", "image_url": URL, "split": "val", "label": "noir", "extra": f'{{"title": "café", "z": {2**70}}}'},
        {"id": "", "image_url": "", "split": "train", "label": "0", "extra": '{"a": [1, {"b": null}]}'},
    ]


def test_what_json_cannot_represent_is_null():
    row = {"image_url": URL, "label": 0, "a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}}
    assert json.loads(convert(row)[0]["extra"]) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


@pytest.mark.parametrize(
    ("label", "text"),
    [(3, "3"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (False, "false"), (2**65, str(2**65)), ("1.0", "1.0")],
)
def test_a_label_of_any_scalar_type_is_text(label, text):
    assert convert({"image_url": URL, "label": label})[0]["label"] == text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " \n\n ", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_label_is_one_line(end):
    assert convert({"image_url": URL, "label": f"\tLong{end}Exposure{end}"})[0]["label"] == "Long Exposure"


def test_columns_may_have_other_names():
    row = {"url": URL, "caption": "cat", "label": "x"}
    assert convert(row, url_col="url", label_col="caption")[0] | {"split": ""} == {
        "id": "", "image_url": URL, "split": "", "label": "cat", "extra": '{"label": "x"}'
    }  # fmt: skip


def test_pictures_may_have_no_labels():
    converted = convert({"image_url": URL, "label": "x"}, {"image_url": URL}, label_col=None)
    assert [(row["label"], row["extra"]) for row in converted] == [
        ("unlabelled", '{"label": "x"}'),
        ("unlabelled", "{}"),
    ]


def test_a_list_with_one_url_is_not_refused():
    rows = convert({"image_url": "photos/1.jpg", "label": 0}, {"image_url": "HTTPS://h/1", "label": 0})
    assert [row["image_url"] for row in rows] == ["photos/1.jpg", "HTTPS://h/1"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "--list list.csv has no rows"),
        ([{"url": URL}], "no column image_url among url; give the name of the column of URLs, --url_col NAME"),
        (
            [{"image_url": URL, "style": 0}],
            "no column label among image_url, style; give the name of the column of labels, --label_col NAME, or",
        ),
        ([{"1.jpg 0": "2.jpg 1"}], "for local pictures, write a path and the number of a class on each line, give"),
        ([{"photos/1.jpg": "photos/2.jpg", "0": "1"}], "for local pictures, write a path"),
        (
            [{"image_url": "photos/1.jpg", "label": 0}] * 3,
            "http or https URL in the column image_url (the first has 'photos/1.jpg'); if these are local",
        ),
        ([{"image_url": "file:///a.jpg", "label": 0}], "(the first has 'file:///a.jpg')"),
        ([{"image_url": URL, "label": 0}, {"image_url": URL}], "row 1 has no label in the column label"),
        ([{"image_url": URL, "label": " \n"}], "row 0 has no label in the column label; write one, or remove"),
        ([{"image_url": URL, "label": math.nan}], "row 0 has no label in the column label"),
        ([{"image_url": URL, "label": {"a": 1}}], 'row 0 has {"a": 1} in the column label, where text or a number'),
        ([{"image_url": URL, "label": {}}], "row 0 has {} in the column label"),
        ([{"image_url": 7, "label": 0}], "row 0 has 7 in the column image_url, where a URL must be text"),
        ([{"image_url": [URL], "label": 0}], 'row 0 has ["http://h/1"] in the column image_url'),
        ([{"image_url": URL, "label": 0, "id": []}], "row 0 has [] in the column id"),
        ([{"image_url": URL, "label": 0, "split": {}}], "row 0 has {} in the column split"),
        ([{"image_url": URL, "label": 0, "_split": "../up"}], "row 0 has the split '../up'; use only letters"),
        ([{"image_url": URL, "label": 0, "split": "a"}, {"image_url": URL, "label": 0}], "row 1 has the split ''"),
        ([{"image_url": URL, "label": 0}, {"image_url": URL, "label": 0, "split": "a"}], "row 1 has a split, but"),
        ([{"image_url": URL, "label": "\ud800"}], "row 0 has half of a surrogate pair in the label"),
        ([{"image_url": URL, "label": 0, "x": {"y": "\ud800"}}], "row 0 has half of a surrogate pair in a column"),
    ],
)  # fmt: skip
def test_an_invalid_row_is_refused_in_one_line(rows, message):
    with pytest.raises(ShardsError) as caught:
        convert(*rows)
    assert str(caught.value).startswith(("--list list.csv", "row "))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_may_not_take_the_urls_name():
    with pytest.raises(ShardsError, match="row 1 has a column image_url beside url, which is stored by that name"):
        convert({"url": URL, "label": 0}, {"url": URL, "label": 0, "image_url": URL}, url_col="url")


def test_a_list_of_paths_without_a_header_is_refused_with_the_header_to_write():
    remedy = "column of paths, --url_col NAME; if the columns have no names, write a first line such as image_url,style"
    with pytest.raises(ShardsError, match=remedy):
        convert({"photos/1.jpg": "photos/2.jpg", "cat": "dog"}, local=True, label_col="style")


def test_rows_are_counted_over_the_whole_list():
    rows = [{"image_url": URL, "label": 0}] * 12_345 + [{"image_url": URL, "label": None}]
    with pytest.raises(ShardsError, match="row 12345 has no label"):
        convert(*rows)


@pytest.mark.parametrize(
    ("value", "separator", "labels"),
    [
        ("cat", None, ["cat"]),
        (" cat; dog;;", ";", ["cat", "dog"]),
        ("cat;dog", None, ["cat;dog"]),
        (["cat;dog", 7, 1.0], ";", ["cat;dog", "7", "1"]),
        (3, ";", ["3"]),
        (None, ";", []),
    ],
)
def test_a_label_may_be_a_list(value, separator, labels):
    assert label_list(value, separator) == labels
