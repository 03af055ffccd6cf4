import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq

from shards.format.outcomes import OUTCOMES_FILE, OUTCOMES_SCHEMA
from shards.verify.parquet_files import JoinedOutcomes, read_table


def outcomes(*rows):
    """Return the outcomes of rows given as (row, status, sha256, duplicate_of)."""
    common = {"image_url": "u", "split": "train", "label": 0, "attempts": 1, "seconds": 0.0, "message": ""}
    common |= {"time": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}
    names = ("row", "status", "sha256", "duplicate_of")
    lines = [common | {"key": f"k{row[0]}"} | dict(zip(names, row, strict=True)) for row in rows]
    return pa.Table.from_pylist(lines, OUTCOMES_SCHEMA)


def check(root, stored, expected, unread=()):
    pq.write_table(stored, root / OUTCOMES_FILE)
    joined = JoinedOutcomes(root, {*unread})
    joined.expect(expected)
    return [*map(str, joined.finish(lambda: [expected]))], joined.count()


def test_a_file_with_the_rows_of_its_parts_has_no_differences(tmp_path):
    part = outcomes((4, "kept", "aa", None), (1, "kept", "bb", None), (2, "gone", None, None))
    assert check(tmp_path, part, part) == ([], 3)


def test_duplicates_are_compared_with_the_first_kept_row_of_the_list(tmp_path):
    part = outcomes(
        (4, "kept", "aa", 1),
        (1, "kept", "aa", None),
        (0, "gone", "aa", None),
        (5, "duplicate", "aa", 1),
        (7, "kept", "b", None),
    )
    assert check(tmp_path, part, part)[0] == []
    wrong = part.set_column(13, part.schema.field(13), pa.array([None, 4, None, 1, 1], pa.int64()))
    assert check(tmp_path, wrong, part)[0] == [
        "outcomes.parquet, k4: duplicate_of: expected 1, found None",
        "outcomes.parquet, k1: duplicate_of: expected None, found 4",
        "outcomes.parquet, k7: duplicate_of: expected None, found 1",
    ]


def test_an_unknown_status_is_found(tmp_path):
    part = outcomes((4, "odd", None, None))
    assert check(tmp_path, part, part)[0] == ["outcomes.parquet, k4: status: expected one of the closed set, found odd"]


def test_rows_of_a_block_that_cannot_be_read_are_not_compared(tmp_path):
    stored = outcomes((4, "kept", "aa", None), (1, "kept", "bb", None))
    assert check(tmp_path, stored, stored[:1], unread=[1]) == ([], 2)


def test_a_file_that_is_damaged_in_the_middle_is_one_difference(tmp_path):
    rows = outcomes(*((row, "kept", f"{row:064}", None) for row in range(30_000)))
    pq.write_table(rows, tmp_path / OUTCOMES_FILE, row_group_size=10_000)
    body = (tmp_path / OUTCOMES_FILE).read_bytes()
    (tmp_path / OUTCOMES_FILE).write_bytes(body[: len(body) // 2] + b"x" * 100_000 + body[len(body) // 2 + 100_000 :])
    joined = JoinedOutcomes(tmp_path, set())
    for start in range(0, 30_000, 1000):
        joined.expect(rows[start : start + 1000])
    [line] = map(str, joined.finish(lambda: [rows]))
    assert line.startswith("outcomes.parquet: file: expected Parquet, found ")
    assert joined.count() == 0


def test_a_table_of_another_schema_or_none_is_a_difference(tmp_path):
    differences = []
    assert read_table(tmp_path, "a", OUTCOMES_SCHEMA, differences) is None
    pq.write_table(pa.table({"a": [1]}), tmp_path / "b")
    assert read_table(tmp_path, "b", OUTCOMES_SCHEMA, differences) is None
    pq.write_table(outcomes((4, "kept", "aa", None)), tmp_path / "c")
    assert len(read_table(tmp_path, "c", OUTCOMES_SCHEMA, differences)) == 1
    assert [(each.file, each.what) for each in differences] == [("a", "file"), ("b", "columns")]
