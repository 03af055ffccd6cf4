from collections import Counter

import pyarrow as pa

from shards.format import outcomes
from shards.format.outcomes import TRANSIENT_STATUSES, Status
from shards.report.counts import (
    NOT_YET,
    STATUS_GROUPS,
    StatusCounts,
    count_statuses,
    group_of,
    limit_counts,
    read_rows,
)
from tests.drawn_outcomes import BEGAN, rows_from


def test_every_status_is_in_one_group():
    named = [status for group in STATUS_GROUPS for status in group.statuses]
    assert sorted(named) == sorted([*map(str, Status), NOT_YET])
    assert {group_of(str(status)).key for status in TRANSIENT_STATUSES} == {"no_answer"}


def test_rows_have_their_outcomes_and_photographers():
    listed = rows_from(
        [
            {"image_url": "http://h/a.jpg", "split": "test", "label": 2, "extra": '{"owner": "ann"}'},
            {"image_url": "http://h/b.jpg"},
        ]
    )
    line = {"row": 0, "key": "k0", "image_url": "", "split": "test", "label": 2, "status": "gone", "attempts": 1}
    line |= {"seconds": 0.1, "time": BEGAN, "message": "410"}
    rows = read_rows(listed, pa.Table.from_pylist([line], outcomes.OUTCOMES_SCHEMA))
    assert rows[0] == (0, "http://h/a.jpg", "test", 2, "ann", "gone", None, None, "410")
    assert rows[1] == (1, "http://h/b.jpg", "train", 0, None, NOT_YET, None, None, "")
    assert count_statuses(rows, lambda row: row.split) == {"test": Counter(gone=1), "train": Counter(not_yet=1)}


def test_groups_add_up_to_the_total():
    each = StatusCounts("x", Counter(kept=5, not_found=2, gone=1, dns=1, corrupt=1, noai=1, not_yet=1))
    assert list(each.by_group().values()) == [5, 3, 1, 1, 1, 1]
    assert (each.total, each.kept) == (12, 5)


def test_all_but_the_largest_counts_are_added_up():
    counts = [
        StatusCounts(name, Counter(kept=count, gone=1)) for name, count in (("a", 1), ("b", 7), ("c", 3), ("d", 3))
    ]
    shown = limit_counts(counts, 2)
    assert [each.name for each in shown] == ["b", "c", "2 others"]
    assert shown[2].statuses == Counter(kept=4, gone=2)
    assert [each.name for each in limit_counts(counts, 4)] == ["b", "c", "d", "a"]
