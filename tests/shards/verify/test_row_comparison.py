import random

import pyarrow as pa
import pytest

from shards.verify.row_comparison import RowComparison, compare_rows, find_repeated, skip_rows

SCHEMA = pa.schema({"row": pa.int64(), "key": pa.string(), "label": pa.int64()})
COLUMNS = ["row", "label"]


def rows_of(*numbers):
    return [{"row": number, "key": f"k{number}", "label": number % 7} for number in numbers]


def table(rows):
    return pa.Table.from_pylist(rows, SCHEMA)


def parts_of(rows, size):
    return [table(rows[start : start + size]) for start in range(0, len(rows), size)]


def compare_parts(expected, found, size, skipped=()):
    comparison = RowComparison("file", COLUMNS, SCHEMA, parts_of(found, 50), {*skipped})
    for part in parts_of(expected, size):
        comparison.expect(part)
    return [*map(str, comparison.finish(lambda: parts_of(expected, size)))]


def damage(rows, draw):
    """Change, drop, repeat, add and move a few rows."""
    rows = [dict(row) for row in rows]
    for _ in range(draw.randrange(5)):
        at, kind = draw.randrange(len(rows)), draw.randrange(5)
        if kind == 0:
            rows[at]["label"] = 100
        elif kind == 1:
            del rows[at]
        elif kind == 2:
            rows.insert(draw.randrange(len(rows)), dict(rows[at]))
        elif kind == 3:
            rows.insert(at, {"row": 5000 + draw.randrange(9), "key": "new", "label": 0})
        else:
            rows.insert(draw.randrange(len(rows)), rows.pop(at))
    return rows


def test_a_file_that_is_read_in_parts_has_the_differences_of_the_whole():
    draw = random.Random(4)
    kinds = set()
    for _ in range(80):
        expected = rows_of(*draw.sample(range(400), 200))
        found = damage(expected, draw)
        whole = [str(each) for each in compare_rows("file", expected, found, COLUMNS) if each.what != "key"]
        assert compare_parts(expected, found, draw.choice([1, 30, 64, 500])) == whole
        kinds.add(len(whole) and whole[0].rpartition("expected")[2])
    assert len(kinds) > 5


def test_rows_are_forgotten_as_soon_as_their_counterparts_are_found():
    """A missing row shifts all rows that follow."""
    expected = rows_of(*range(1000))
    comparison = RowComparison("file", COLUMNS, SCHEMA, parts_of(expected[1:], 50), set())
    for part in parts_of(expected, 100):
        comparison.expect(part)
        assert len(comparison._expected) <= 2
        assert len(comparison._found) <= 1
    [difference] = comparison.finish(lambda: parts_of(expected, 100))
    assert str(difference) == "file, k0: row 0: expected once, found 0 times"


def test_another_order_alone_is_one_difference():
    expected = rows_of(*range(300))
    for size in (10, 1000):
        assert compare_parts(expected, [*expected[100:], *expected[:100]], size) == [
            "file: order of the rows: expected that of the list, found another"
        ]
        assert compare_parts(expected, expected, size) == []
    assert compare_parts([], rows_of(3), 10) == ["file, k3: row: expected none, found 3"]


@pytest.mark.parametrize("first", [0, 90, 200])
def test_skipped_rows_are_not_compared(first):
    expected = rows_of(*range(300))
    rest = [*expected[:first], *expected[first + 40 :]]
    comparison = RowComparison("file", COLUMNS, SCHEMA, parts_of(expected, 130), skipped := set())
    for part in parts_of(rest[:first], 10):
        comparison.expect(part)
    skipped |= {row["row"] for row in expected[first : first + 40]}  # more than that of the file has been read
    for part in parts_of(rest[first:], 10):
        comparison.expect(part)
    assert comparison.finish(lambda: parts_of(rest, 10)) == []
    assert skip_rows(table(rows_of(1, 2, 3)), {2}).column("row").to_pylist() == [1, 3]


def test_repeated_values_are_found_in_all_parts():
    parts = [pa.chunked_array([["a", "b"]]), pa.chunked_array([["c", "b", "b", "a"]])]
    assert [*map(str, find_repeated("file", "key", lambda: parts))] == [
        "file, a: key: expected once, found 2 times",
        "file, b: key: expected once, found 3 times",
    ]
    assert find_repeated("file", "key", lambda: parts[:1]) == []
    numbers = [pa.chunked_array([[0, 7, 8]]), pa.chunked_array([[0]])]
    assert [*map(str, find_repeated("file", "row", lambda: numbers))] == ["file, 0: row: expected once, found 2 times"]
