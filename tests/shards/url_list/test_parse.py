import codecs
import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.url_list.parse import ROWS_SCHEMA, parse_caffe_lists, parse_list
from shards.url_list.select import select_rows
from shards.url_list.source import Source
from tests.recipes import make_recipe

COLUMNS = {
    "image_url": ["http://h/a.jpg", "http://h/b.jpg", "http://h/c.jpg"],
    "label": [2, 0, 1],
    "_split": ["train", "test", "train"],
    "id": ["x", "y", "z"],
    "page_url": ["p", "q", "r"],
}


def listed(body: bytes | str) -> Source:
    return Source("list.csv", {"": body.encode() if isinstance(body, str) else body})


def as_csv() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(zip(*COLUMNS.values(), strict=True))
    return text.getvalue().encode()


def as_parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(COLUMNS), buffer)
    return buffer.getvalue()


def as_json_lines() -> bytes:
    rows = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WITH_BOM = [
    codecs.BOM_UTF8 + body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for body in (as_csv(), as_json_lines())
]


FORMATS = {
    "csv": as_csv(),
    "csv.gz": gzip.compress(as_csv(), mtime=0),
    "parquet": as_parquet(),
    "jsonl": as_json_lines(),
    "csv with a BOM": WITH_BOM[0],
    "jsonl with a BOM": WITH_BOM[1],
}


@pytest.mark.parametrize("body", FORMATS.values(), ids=FORMATS.keys())
def test_each_format_gives_the_same_rows(body):
    table = parse_list(listed(body))
    assert table.column_names == list(COLUMNS)
    assert [str(value) for value in table.column("label").to_pylist()] == ["2", "0", "1"]
    rows = sorted(select_rows(listed(body), make_recipe())[0].to_pylist(), key=lambda row: row["row"])
    assert [row["key"] for row in rows] == ["x", "y", "z"]
    assert [row["image_url"] for row in rows] == COLUMNS["image_url"]
    assert [row["label"] for row in rows] == [2, 0, 1]
    assert [row["split"] for row in rows] == ["train", "test", "train"]
    assert [json.loads(row["extra"]) for row in rows] == [{"page_url": "p"}, {"page_url": "q"}, {"page_url": "r"}]


def test_the_unnamed_first_column_is_the_id():
    table = parse_list(listed(",image_url,label\n007,http://h/a,0\n8,http://h/b,0\n"))
    assert table.column("id").to_pylist() == ["007", "8"]


def test_unusual_urls_are_unchanged():
    urls = ['http://h/a "b".jpg', "http://h/é,ü.jpg", "ftp://h/x", "", "http://h/a\tb"]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["image_url", "label"], *([url, 0] for url in urls)])
    assert parse_list(listed(text.getvalue())).column("image_url").to_pylist() == urls


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_value_may_be_megabytes_long(form):
    long = "x" * 3_000_000
    body = f'{{"image_url": "http://h/1", "label": 0, "text": "{long}"}}\n'
    if form == "csv":
        body = f"image_url,label,text\nhttp://h/1,0,{long}\n"
    assert parse_list(listed(body)).column("text").to_pylist() == [long]


def test_blank_lines_are_skipped():
    assert parse_list(listed("image_url,label\n\nhttp://h/1,0\n\n")).to_pylist() == [
        {"image_url": "http://h/1", "label": "0"}
    ]
    assert len(parse_list(listed(""))) == 0


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("image_url,label\nhttp://h/1\n", "line 2"),
        ('image_url,label\nhttp://h/1,"0\n', "line 2"),
        ("image_url,label,label\nhttp://h/1,0,0\n", "header"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"\x1f\x8b\x08\x00damaged", "list.csv"),
        (b"PAR1damagedPAR1", "list.csv"),
        (b'{"image_url": "http://h/1", "label": \n', "list.csv"),
    ],
)
def test_a_damaged_list_is_refused_in_one_line(body, named):
    with pytest.raises(ShardsError) as caught:
        parse_list(listed(body))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_caffe_lists_are_rows_in_the_order_of_their_lines():
    parts = {"train": b"my dir/b c.jpg 1\n\na.jpg 0\n", "test": b"z.jpg 1"}
    rows = parse_caffe_lists(Source("train=a test=b", parts, {"train": "a", "test": "b"})).to_pylist()
    assert list(rows[0]) == ROWS_SCHEMA.names
    assert [tuple(row.values()) for row in rows] == [
        (0, "00000000", "my dir/b c.jpg", "train", "1", "{}"),
        (1, "00000001", "a.jpg", "train", "0", "{}"),
        (2, "00000002", "z.jpg", "test", "1", "{}"),
    ]


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg x", "a.jpg -1", "7", "a.jpg 100000", f"a.jpg {'9' * 5000}"])
def test_a_caffe_line_without_path_or_label_is_refused(line):
    with pytest.raises(ShardsError, match=r"^--list train=my/train\.txt, line 2: "):
        parse_caffe_lists(Source("", {"train": b"ok.jpg 0\n" + line.encode()}, {"train": "my/train.txt"}))
