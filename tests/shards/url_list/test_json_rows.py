import io
import json

import pytest

from shards.errors import ShardsError
from shards.url_list.json_rows import read_json_array, read_json_lines


def test_values_are_those_of_json():
    rows = [
        {"image_url": "http://h/1", "label": "2010-01-01", "n": 2**200, "mixed": 1},
        {"image_url": "http://h/2", "label": "1.0", "n": -(2**64) - 1, "mixed": "1", "more": None},
        {"image_url": "http://h/3", "label": 3, "n": 0.1, "mixed": [True, {"a": "2014-05-01T10:00:00Z"}]},
    ]
    lines = "".join(json.dumps(row) + "\r\n\n" for row in rows)
    assert list(read_json_lines(io.BytesIO(lines.encode()), "a")) == list(zip((1, 3, 5), rows, strict=True))
    assert list(read_json_array(io.BytesIO(json.dumps(rows, indent=2).encode()), "a")) == rows
    assert list(read_json_array(io.BytesIO(b" [ ]\n"), "a")) == []


def test_separators_of_unicode_do_not_end_a_line():
    assert list(read_json_lines(io.BytesIO('{"a": "b\u2028c\x85d"}'.encode()), "a")) == [(1, {"a": "b\u2028c\x85d"})]


def test_what_json_cannot_represent_is_null():
    lines = io.BytesIO(b'{"a": NaN, "b": [-Infinity, Infinity]}')
    assert list(read_json_lines(lines, "a")) == [(1, {"a": None, "b": [None, None]})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"a": 1',
            "line 2, column 8: not valid JSON: Expecting ',' delimiter; a list has an object on each line, or is",
        ),
        ("{'a': 1}", "line 2, column 2: not valid JSON"),
        ('{"a": 1} {"a": 2}', "line 2, column 10: not valid JSON: Extra data"),
        ('["http://h/1", 0]', "line 2: an array, where a JSON object is expected"),
        ("null", "line 2: null, where"),
        ('"text"', "line 2: a string, where"),
        ("3", "line 2: a number, where"),
        ('{"a": ' + "1" * 5000 + "}", "line 2: not a value that can be read: Exceeds the limit"),
        ('{"a": ' + "[" * 100_000, "line 2: not a value that can be read: maximum recursion depth"),
    ],
)
def test_an_error_names_its_line(line, message):
    body = f'{{"a": 0}}\n{line}\n{{"a": 3}}\n'
    with pytest.raises(ShardsError) as caught:
        list(read_json_lines(io.BytesIO(body.encode()), "list.jsonl"))
    assert str(caught.value).startswith(f"--list list.jsonl, {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[\n {"a": 1},\n {"a": }\n]', "line 3, column 8: not valid JSON"),
        ('[{"a": 1}, 3]', "row 1 (counted from 0): a number, where a JSON object is expected"),
        ('[{"a": 1}', "line 1, column 10: not valid JSON"),
    ],
)
def test_an_error_in_an_array_names_its_place(body, message):
    with pytest.raises(ShardsError) as caught:
        list(read_json_array(io.BytesIO(body.encode()), "list.json"))
    assert str(caught.value).startswith(f"--list list.json, {message}")
