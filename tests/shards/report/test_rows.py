import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from shards.errors import ShardsError
from shards.format import outcomes
from shards.format.outcomes import NOT_YET
from shards.format.parts import write_parts
from shards.format.repeats import hash_text
from shards.report.rows import ListedRow, Rows
from shards.url_list.parse import ROWS_SCHEMA
from tests.drawn_outcomes import BEGAN, rows_from

LINES = [
    {"row": 70_000, "image_url": "http://h/a.jpg", "split": "test", "label": 2},
    {"row": 3, "image_url": "http://h/b.jpg"},
    {"row": 9, "image_url": "http://h/c.jpg"},
    {"row": 5, "image_url": "http://h/d.jpg", "label": 300},
]
OUTCOMES = [
    {"row": 9, "status": "kept", "bytes": 70_000, "sha256": "ab"},
    {"row": 70_000, "status": "gone", "message": "410"},
    {"row": 5, "status": "kept", "bytes": 9, "sha256": "ab"},
]


def write(root, found):
    (root / "blocks").mkdir()
    write_parts(root / "blocks" / "rows.parquet", [rows_from(LINES)], ROWS_SCHEMA)
    common = {"key": "k", "image_url": "", "split": "train", "label": 0, "attempts": 1, "seconds": 0.1, "message": ""}
    rows = [common | {"time": BEGAN + dt.timedelta(hours=number)} | row for number, row in enumerate(found)]
    table = pa.Table.from_pylist(rows, outcomes.OUTCOMES_SCHEMA)
    write_parts(root / "outcomes.parquet", [table], outcomes.OUTCOMES_SCHEMA)
    return Rows.load(root)


def test_rows_have_their_outcomes_in_any_order(tmp_path):
    rows = write(tmp_path, OUTCOMES)
    assert rows.row.tolist() == [70_000, 3, 9, 5]
    assert (list(rows.split), rows.label.tolist()) == (["test", "train", "train", "train"], [2, 0, 0, 300])
    assert list(rows.status) == ["gone", NOT_YET, "kept", "kept"]
    assert rows.body.tolist() == [0, 0, hash_text("ab"), hash_text("ab")]
    assert rows.kept_bytes.tolist() == [9, 70_000]
    assert (rows.first, rows.last) == (BEGAN, BEGAN + dt.timedelta(hours=2))
    assert rows.has_status("kept").tolist() == [False, False, True, True]
    assert not rows.has_status("timeout").any()


def test_single_rows_are_read_from_their_files(tmp_path):
    rows = write(tmp_path, OUTCOMES)
    assert rows.positions_of([5, 70_000, 4]).tolist() == [0, 3]
    assert rows.read_rows(np.array([0, 1, 3])) == [
        ListedRow(70_000, "k0", "http://h/a.jpg", "test", 2, "gone", None, None, "410"),
        ListedRow(3, "k1", "http://h/b.jpg", "train", 0, NOT_YET, None, None, ""),
        ListedRow(5, "k3", "http://h/d.jpg", "train", 300, "kept", 9, "ab", ""),
    ]
    assert rows.read(np.array([1, 2]), "image_url") == ["http://h/b.jpg", "http://h/c.jpg"]
    assert rows.read_outcomes(np.array([1, 2]), ["bytes"]) == [{}, {"bytes": 70_000}]
    assert rows.read_rows(rows.positions_of([])) == []
    blocks = list(rows.read_blocks("label"))
    assert [value for _, values in blocks for value in values] == rows.label.tolist()


def test_a_list_without_outcomes_is_pending(tmp_path):
    rows = write(tmp_path, [])
    assert list(rows.status) == [NOT_YET] * 4
    assert (rows.first, rows.last, rows.kept_bytes.tolist()) == (None, None, [])
    assert rows.read_rows(np.array([3]))[0].status == NOT_YET


def test_a_damaged_file_is_one_line_with_the_remedy(tmp_path):
    write(tmp_path, OUTCOMES)
    (tmp_path / "outcomes.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ShardsError, match=r"outcomes.parquet can.t be read .*; make it with: shards finalize"):
        Rows.load(tmp_path)
