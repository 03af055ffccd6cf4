import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.url_list.parse import ROWS_SCHEMA, locate_row, parse_caffe_lists, parse_list
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


def as_csv(**settings) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, **settings)
    writer.writerow(COLUMNS)
    writer.writerows(zip(*COLUMNS.values(), strict=True))
    return text.getvalue().encode()


def as_parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(COLUMNS), buffer)
    return buffer.getvalue()


def as_rows() -> list[dict]:
    return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]


def as_json_lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in as_rows()).encode()


WITH_BOM = [
    codecs.BOM_UTF8 + body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for body in (as_csv(), as_json_lines())
]


FORMATS = {
    "csv": as_csv(),
    "csv with tabs": as_csv(delimiter="\t"),
    "csv with semicolons, for Excel": b"sep=;\r\n" + as_csv(delimiter=";"),
    "csv in UTF-16": as_csv().decode().encode("utf-16"),
    "csv in big-endian UTF-16": codecs.BOM_UTF16_BE + as_csv().decode().encode("utf-16-be"),
    "csv in UTF-32": as_csv().decode().encode("utf-32"),
    "csv.bz2": bz2.compress(as_csv()),
    "csv.xz": lzma.compress(as_csv()),
    "json array": json.dumps(as_rows(), indent=1).encode(),
    "jsonl in UTF-16": as_json_lines().decode().encode("utf-16"),
    "csv.gz": gzip.compress(as_csv(), mtime=0),
    "parquet": as_parquet(),
    "jsonl": as_json_lines(),
    "csv with a BOM": WITH_BOM[0],
    "jsonl with a BOM": WITH_BOM[1],
}


@pytest.mark.parametrize("body", FORMATS.values(), ids=FORMATS.keys())
def test_each_format_gives_the_same_rows(body):
    assert [list(row) for row in parse_list(listed(body))] == [list(COLUMNS)] * 3
    rows = sorted(select_rows(listed(body), make_recipe())[0].read_all().to_pylist(), key=lambda row: row["row"])
    assert [row["key"] for row in rows] == ["x", "y", "z"]
    assert [row["image_url"] for row in rows] == COLUMNS["image_url"]
    assert [row["label"] for row in rows] == [2, 0, 1]
    assert [row["split"] for row in rows] == ["train", "test", "train"]
    assert [json.loads(row["extra"]) for row in rows] == [{"page_url": "p"}, {"page_url": "q"}, {"page_url": "r"}]


def test_a_text_of_urls_needs_no_labels():
    body = "\nhttps://h/w_200,h_100/a.jpg\r\nHTTP://h/b;c.jpg \n\nphotos/d.jpg\n"
    selected, recipe = select_rows(listed(body), make_recipe())
    rows = selected.read_all()
    assert sorted(rows.column("image_url").to_pylist()) == [
        "HTTP://h/b;c.jpg",
        "https://h/w_200,h_100/a.jpg",
        "photos/d.jpg",
    ]
    assert set(rows.column("label").to_pylist()) == {0}
    assert recipe.classes == ("unlabelled",)


@pytest.mark.parametrize("line", ["http://h/a.jpg,cat", "http://h/a.jpg 0", "http://h/a.jpg\tcat\ttrain"])
def test_a_table_without_a_header_is_no_text_of_urls(line):
    with pytest.raises(ShardsError, match=r"line 1 has a URL and other columns; put a header .* url,label"):
        parse_list(listed(line), "url")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"\xff\xfe\x00", "UTF-16"),
        (b"\xff\xd8\xff\xe0", "UTF-8"),
        (b"\0\x03\x04\x00", "NUL"),
        (b"PK\x03\x04\x14\0", "an Excel or ZIP file; save the table as CSV in UTF-8"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html>\n<p>Log in</p>", "an HTML or XML page, not a list"),
        (gzip.compress(as_csv(), mtime=0)[:-9], "list.csv"),
        (b"PAR1damagedPAR1", "list.csv"),
        (as_parquet()[:-30], "list.csv"),
        (b'{"image_url": "http://h/1", "label": \n', "line 1"),
        (b"image_url,label\nhttp://h/1\n", "line 2"),
    ],
)
def test_a_damaged_list_is_refused_in_one_line(body, named):
    with pytest.raises(ShardsError) as caught:
        list(parse_list(listed(body)))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_byte_of_a_parquet_file_raises_anything_else():
    body = as_parquet()
    for position in range(0, len(body), 7):
        damaged = bytearray(body)
        damaged[position] ^= 0xFF
        with contextlib.suppress(ShardsError):
            select_rows(listed(bytes(damaged)), make_recipe())[0].read_all()


PLACES = {
    "csv": (as_csv(), "line 4"),
    "csv with an empty line, for Excel, in UTF-16": (("sep=,\r\n\r\n" + as_csv().decode()).encode("utf-16"), "line 6"),
    "csv.gz": (gzip.compress(as_csv()), "line 4"),
    "jsonl with an empty line": (b"\n" + as_json_lines(), "line 4"),
    "json array": (json.dumps(as_rows()), "row 2 (counted from 0)"),
    "parquet": (as_parquet(), "row 2 (counted from 0)"),
    "urls": ("\n\nhttp://h/a.jpg\n\nhttp://h/b.jpg\nhttp://h/c.jpg\n", "line 6"),
}


@pytest.mark.parametrize(("body", "place"), PLACES.values(), ids=PLACES.keys())
def test_a_row_is_located_where_a_text_editor_shows_it(body, place):
    assert locate_row(listed(body), 2, make_recipe()) == place


def test_a_row_of_several_lists_is_located_in_its_file():
    parts = {"train": b"a.jpg 1\n\nb.jpg 1\n", "test": b"\nc.jpg 0\n"}
    source = Source("train=a.txt test=b.txt", parts, {"train": "a.txt", "test": "b.txt"})
    assert [locate_row(source, row, make_recipe()) for row in range(3)] == [
        "line 1 of a.txt",
        "line 3 of a.txt",
        "line 2 of b.txt",
    ]


def test_caffe_lists_are_rows_in_the_order_of_their_lines():
    parts = {"train": b"\xef\xbb\xbfmy dir/b c.jpg 1\r\n\na.jpg\t0\n", "test": b"z.jpg 1"}
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
