import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stylefinetune.errors import UserError
from stylefinetune.prediction.list_file import list_kind, open_list
from stylefinetune.prediction.pictures import NoPicture, PictureFile, PictureUrl

ROWS = [{"url": "a.jpg", "label": 1}, {"url": "", "label": 2}, {"url": "http://host/ü.jpg", "label": 3}]


@pytest.fixture(params=["csv", "semicolons.csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def written(request, tmp_path):
    """A list of each kind with ROWS, and where its second row is."""
    path = tmp_path / f"list.{request.param}"
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path, ", row 1 (counted from 0)"
    if request.param.startswith("jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in ROWS)
    else:
        comma = {"tsv": "\t", "semicolons.csv": ";"}.get(request.param, ",")
        text = "".join(f"{row['label']}{comma}{row['url']}\r\n" for row in [{"label": "label", "url": "url"}, *ROWS])
    (gzip.open if request.param.endswith("gz") else open)(path, "wb").write(text.encode("utf-8-sig"))
    return path, ":2" if request.param.startswith("jsonl") else ":3"


def test_the_pictures_of_each_kind_are_found(written):
    path, second = written
    assert (
        list(open_list(path, None)())
        == list(open_list(path, "url")())
        == [
            PictureFile(str(path.parent / "a.jpg")),
            NoPicture(f"{path}{second}", "names no picture"),
            PictureUrl("http://host/ü.jpg"),
        ]
    )


def test_a_column_that_is_missing_is_reported_with_the_others(written):
    with pytest.raises(UserError, match=r"has no column path; name one of its columns with --column: (url|label), "):
        open_list(written[0], "path")


def test_a_list_without_a_usual_column_needs_its_name(tmp_path):
    (path := tmp_path / "x.csv").write_text("where,label\na.jpg,1\n")
    with pytest.raises(UserError, match=r"has none of the columns path, .*--column: where, label"):
        open_list(path, None)
    assert list(open_list(path, "where")()) == [PictureFile(str(tmp_path / "a.jpg"))]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "is empty, or its first line is"),
        ("x.jsonl", "", "is empty, or its first line is"),
        ("x.jsonl", '[{"path": "a.jpg"}]\n', "doesn't begin with a JSON object; write one on each line"),
        ("x.jsonl", "3\n", "doesn't begin with a JSON object; write one on each line"),
    ],
)
def test_a_list_without_columns_is_one_line(tmp_path, name, text, message):
    (path := tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} {message}"):
        open_list(path, None)


def test_a_damaged_list_is_one_line(tmp_path):
    (path := tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"x\.parquet can't be read as a list"):
        open_list(path, None)
    (path := tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(UserError, match=r"x\.jsonl can't be read as a list"):
        open_list(path, None)
    path.write_text('{"path": "a"}\nhello\n[1]\n')
    assert list(open_list(path, None)())[1:] == [NoPicture(f"{path}:{n}", "names no picture") for n in (2, 3)]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("x.csv", 'label,path\n\n"a\nb",1.jpg\n"c\nd",\n\n', 5),
        ("x.jsonl", '{"path": "1.jpg"}\n\n{"path": ""}\n\n', 3),
    ],
)
def test_empty_lines_name_no_pictures_and_others_are_named_by_their_first_line(tmp_path, name, text, line):
    (path := tmp_path / name).write_text(text)
    assert list(open_list(path, None)()) == [
        PictureFile(str(tmp_path / "1.jpg")),
        NoPicture(f"{path}:{line}", "names no picture"),
    ]


def test_a_csv_that_breaks_off_is_reported_after_its_rows(tmp_path):
    body = gzip.compress(b"path\n" + b"".join(b"%d.jpg\n" % number for number in range(99999)))
    (path := tmp_path / "x.csv.gz").write_bytes(body[:-2000])
    *first, last = open_list(path, None)()
    assert len(first) > 100
    assert last.name == str(path)
    assert last.reason.startswith("can't be read further")


def test_the_kind_is_the_end_of_the_name(tmp_path):
    assert [list_kind(tmp_path / name) for name in ("a.CSV", "a.jsonl.gz", "a.jpg", "a")] == [
        ".csv",
        ".jsonl",
        ".jpg",
        "",
    ]
