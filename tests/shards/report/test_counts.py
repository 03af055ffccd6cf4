from collections import Counter

import pyarrow as pa

from shards.format.columns import Names
from shards.format.outcomes import NOT_YET, STATUS_GROUPS, TRANSIENT_STATUSES, Status, group_of
from shards.report.counts import StatusCounter, StatusCounts, limit_counts


def test_every_status_is_in_one_group():
    named = [status for group in STATUS_GROUPS for status in group.statuses]
    assert sorted(named) == sorted([*map(str, Status), NOT_YET])
    assert {group_of(str(status)).key for status in TRANSIENT_STATUSES} == {"no_answer"}


def test_the_statuses_of_each_key_are_counted_a_block_at_a_time():
    counter = StatusCounter[str](Names.join([pa.array(["kept", "gone", "kept", "kept", "gone"])]))
    counter.add(slice(0, 2), ["b", "a"])
    counter.add(slice(2, 5), ["b", "a", "a"])
    assert counter.to_list(str.upper) == [
        StatusCounts("A", Counter(kept=1, gone=2)),
        StatusCounts("B", Counter(kept=2)),
    ]
    assert StatusCounter[str](Names.join([])).to_list(str) == []


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
