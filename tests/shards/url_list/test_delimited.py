import csv
import io

import pytest

from shards.errors import ShardsError
from shards.url_list.delimited import read_delimited

ROWS = [{"image_url": "http://h/1", "label": "0"}, {"image_url": "http://h/2", "label": "1"}]


def read(text: str, url_col: str = "image_url") -> list[dict]:
    return [row for _, row in read_delimited(io.BytesIO(text.encode()), "list.csv", url_col)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first_line", ["", "sep={}\r\n", '"sep={}"\n', "SEP={}\n"])
def test_the_separator_is_detected(separator, first_line):
    lines = ["image_url,label", "http://h/1,0", "http://h/2,1"]
    text = first_line.format(separator) + "".join(f"{line}\r\n" for line in lines).replace(",", separator)
    assert read(text) == ROWS


def test_excel_may_name_any_separator():
    assert read("sep=^\nimage_url^label\nhttp://h/1^0\n") == ROWS[:1]


def test_the_separator_is_that_of_the_column_of_urls():
    text = "id;a,b,c;url\n1;2;http://h/w_2,h_3/x\n"
    assert read(text, "url") == [{"id": "1", "a,b,c": "2", "url": "http://h/w_2,h_3/x"}]
    assert list(read("url;caption\nhttp://h/1;a,b\n")[0]) == ["url", "caption"]  # none has the column


def test_trailing_empty_columns_and_empty_records_are_ignored():
    assert read("image_url,label,,\nhttp://h/1,0,,\n,,,\nhttp://h/2,1\n,,,,,\n") == ROWS
    assert read("\n\nimage_url,label\nhttp://h/1,0,\n\nhttp://h/2,1,,\n") == ROWS


def test_a_value_in_an_untitled_column_is_not_ignored():
    with pytest.raises(ShardsError, match="line 3: 4 columns, but the header has 2; put values with"):
        read("image_url,label,,\nhttp://h/1,0,,\nhttp://h/2,1,,x\n")


def test_the_unnamed_first_column_is_the_id():
    assert [row["id"] for row in read(",image_url,label\n007,http://h/a,0\n8,http://h/b,0\n")] == ["007", "8"]


def test_a_column_called_id_is_the_id_beside_the_row_numbers_of_pandas():
    row = {"Unnamed: 0": "7", "image_url": "http://h/a", "label": "0", "id": "b"}
    assert read(",image_url,label,id\n7,http://h/a,0,b\n") == [row]


def test_unusual_urls_are_unchanged():
    urls = ['http://h/a "b".jpg', "http://h/é,ü.jpg", "ftp://h/x", "", "http://h/a\tb"]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["image_url", "label"], *([url, 0] for url in urls)])
    assert [row["image_url"] for row in read(text.getvalue())] == urls


def test_a_value_may_be_megabytes_long():
    long = "x" * 3_000_000
    assert read(f"image_url,label,text\nhttp://h/1,0,{long}\n")[0]["text"] == long


def test_a_value_may_have_line_breaks():
    assert read('image_url,label\r\nhttp://h/1,"a\nb\rc"\r\n')[0]["label"] == "a\nb\rc"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_row_has_the_number_of_its_first_line(end):
    lines = ["", "image_url,label", "a,0", "", ",", '"b', '",1', "c,2"]
    body = end.join(lines).encode()
    assert [line for line, _ in read_delimited(io.BytesIO(body), "list.csv", "image_url")] == [3, 6, 8]
    assert [line for line, _ in read_delimited(io.BytesIO(b"sep=,\n" + body), "list.csv", "image_url")] == [4, 7, 9]


@pytest.mark.parametrize("text", ["", "\n", "image_url,label", "sep=;\n", ",,\n"])
def test_a_list_may_have_no_rows(text):
    assert read(text) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("image_url,label\nhttp://h/1\n", "line 2: 1 column, but the header has 2; add the missing ones"),
        ("sep=,\nimage_url,label\nhttp://h/1\n", "line 3: 1 column"),
        ('image_url,label\nhttp://h/1,"0\n', "line 2: a double quote is not closed"),
        ('image_url,label\nhttp://h/1,"0"1\n', "line 2: ',' expected after '\"'"),
        ('"image_url,label\n', "line 1: a double quote is not closed"),
        ('image_url,label\n"http://h/\n1","0"1\n', "line 2: ',' expected after"),
        ('image_url,label\n\nhttp://h/1,"0\n\n\n', "line 3: a double quote is not closed"),
        ("image_url,label,label\nhttp://h/1,0,0\n", "header image_url,label,label"),
    ],
)
def test_a_damaged_line_is_named(text, named):
    with pytest.raises(ShardsError) as caught:
        read(text)
    assert named in str(caught.value)
