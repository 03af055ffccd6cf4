import datetime as dt
import random

import pyarrow as pa
import pytest

from shards.assembly.deduplicate import DuplicateRules, DuplicateVerdicts, find_duplicates
from shards.format import outcomes


def table_of(*rows: tuple[int, str, str, str | None]) -> pa.Table:
    """Return the outcomes of rows given as (row, image_url, status, body)."""
    common = {"key": "k", "split": "train", "label": 0, "attempts": 1, "seconds": 0.0, "message": ""}
    lines = [
        common | {"row": row, "image_url": url, "status": status, "sha256": body, "time": dt.datetime.now(dt.UTC)}
        for row, url, status, body in rows
    ]
    return pa.Table.from_pylist(lines, outcomes.OUTCOMES_SCHEMA)


def find(blocks: list[pa.Table], rules: DuplicateRules) -> DuplicateVerdicts:
    return find_duplicates(len(blocks), lambda number, columns: blocks[number].select(columns), rules)


def in_blocks(blocks: list[pa.Table], rules: DuplicateRules) -> pa.Table:
    verdicts = find(blocks, rules)
    return pa.concat_tables([verdicts.apply(block, number) for number, block in enumerate(blocks)])


def found(table: pa.Table, rules: DuplicateRules) -> dict[int, tuple[str, int | None]]:
    after = in_blocks([table], rules)
    pairs = zip(table.column("status").to_pylist(), after.column("status").to_pylist(), strict=True)
    assert find([table], rules).changed_rows(0).tolist() == [one != other for one, other in pairs]
    assert after.schema == outcomes.OUTCOMES_SCHEMA
    cut = len(table) // 3
    assert in_blocks([table[:cut], table[cut:]], rules).equals(after)
    return {row["row"]: (row["status"], row["duplicate_of"]) for row in after.to_pylist()}


def test_a_body_under_many_urls_is_a_placeholder():
    rows = [(row, f"u{row}", "kept", "aa") for row in range(4)] + [(4, "u4", "kept", "bb"), (5, "u5", "gone", None)]
    expected = dict.fromkeys(range(4), ("placeholder", None)) | {4: ("kept", None), 5: ("gone", None)}
    assert found(table_of(*rows), DuplicateRules(placeholder_urls=4)) == expected
    message = in_blocks([table_of(*rows)], DuplicateRules(placeholder_urls=4)).column("message").to_pylist()
    assert message == ["the same bytes under 4 URLs"] * 4 + ["", ""]


def test_below_the_limit_all_are_kept_as_duplicates_of_the_lowest_row():
    rows = [(row, f"u{row}", "kept", "aa") for row in (7, 2, 5)]
    assert found(table_of(*rows), DuplicateRules(placeholder_urls=4)) == {
        7: ("kept", 2),
        2: ("kept", None),
        5: ("kept", 2),
    }


def test_rows_of_one_url_count_once():
    rows = [(row, f"u{row % 3}", "kept", "aa") for row in range(9)]
    assert found(table_of(*rows), DuplicateRules(placeholder_urls=4))[8] == ("kept", 0)
    assert found(table_of(*rows), DuplicateRules(placeholder_urls=3))[8] == ("placeholder", None)


def test_a_limit_of_zero_disables_placeholders():
    rows = [(row, f"u{row}", "kept", "aa") for row in range(50)]
    assert found(table_of(*rows), DuplicateRules(placeholder_urls=0))[49] == ("kept", 0)


def test_rows_dropped_earlier_are_counted():
    rows = [(0, "u0", "placeholder", "aa"), (1, "u1", "duplicate", "aa"), (2, "u2", "kept", "aa")]
    assert {status for status, _ in found(table_of(*rows), DuplicateRules(placeholder_urls=3)).values()} == {
        "placeholder"
    }
    assert found(table_of(*rows), DuplicateRules(placeholder_urls=4)) == {
        0: ("placeholder", None),
        1: ("duplicate", 2),
        2: ("kept", None),
    }


def test_bodies_without_a_picture_are_not_counted():
    rows = [(0, "u0", "not_an_image", "aa"), (1, "u1", "kept", "bb"), (2, "u2", "corrupt", "bb")]
    assert found(table_of(*rows), DuplicateRules(placeholder_urls=2))[1] == ("kept", None)


def test_duplicates_are_dropped_if_configured():
    rows = [(row, f"u{row}", "kept", "aa") for row in (7, 2, 5)] + [(1, "u1", "gone", "aa")]
    rules = DuplicateRules(placeholder_urls=4, drop_duplicates=True)
    assert found(table_of(*rows), rules) == {
        7: ("duplicate", 2),
        2: ("kept", None),
        5: ("duplicate", 2),
        1: ("gone", None),
    }


def test_outcomes_without_rows_are_accepted():
    assert found(outcomes.OUTCOMES_SCHEMA.empty_table(), DuplicateRules(2, drop_duplicates=True)) == {}


@pytest.mark.parametrize("drop_duplicates", [False, True])
def test_the_result_does_not_depend_on_the_order_of_the_downloads(drop_duplicates):
    """Rows added in several steps, with the statuses of the step before, get the statuses of one step."""
    draw = random.Random(3)
    rules = DuplicateRules(placeholder_urls=5, drop_duplicates=drop_duplicates)
    for _ in range(30):
        rows = [(row, f"u{draw.randrange(12)}", "kept", draw.choice("abcd")) for row in range(24)]
        at_once = found(table_of(*rows), rules)
        draw.shuffle(rows)
        known: list = []
        for piece in (rows[:7], rows[7:15], rows[15:]):
            known += piece
            statuses = found(table_of(*known), rules)
            known = [(row, url, statuses[row][0], body) for row, url, _, body in known]
        assert found(table_of(*known), rules) == at_once
