import threading

import pytest

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.storage import lock_holder
from shards.storage.lock_holder import Heartbeat, LockHolder


@pytest.mark.parametrize("stage", ["", "/stage"])
def test_a_record_is_read_as_it_was_written(stage):
    holder = LockHolder.current("plan", stage)
    records = [holder.encode(beat) for beat in (0, 10**9)]
    assert len(set(records)) == 2
    assert len(set(map(len, records))) == 1
    assert [LockHolder.decode(record) for record in records] == [holder, holder]


def test_processes_have_different_names_and_equal_plans_equal_digests():
    holders = [LockHolder.current("plan") for _ in range(2)]
    assert len({holder.name for holder in holders}) == 2
    assert {holder.plan for holder in holders} == {LockHolder.current("plan", "/stage").plan}
    assert LockHolder.current("another").plan != holders[0].plan


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'"host"', b"7", b"null", b"\xff"])
def test_a_damaged_record_is_of_an_unknown_holder(record):
    assert LockHolder.decode(record) == LockHolder("", "another process", "")


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (Partition(0, 3), Partition(1, 3), False),
        (Partition(0, 3), Partition(0, 3), True),
        (Partition(0, 3), Partition(1, 4), True),
        (Partition(0, 3), None, True),
        (None, None, True),
    ],
)
def test_all_of_dir_one_partition_and_another_count_conflict(one, other, conflict):
    holder = LockHolder.current("plan")
    for name, rival in ((one, other), (other, one)):
        names = lock_holder.lock_name(name), lock_holder.lock_name(rival)
        assert lock_holder.locks_conflict(names[0], holder, names[1], LockHolder.current("plan")) == conflict


def test_partitions_of_another_plan_conflict_unless_it_is_unknown():
    holder = LockHolder.current("plan")
    assert lock_holder.locks_conflict("0-of-3", holder, "1-of-3", LockHolder.current("another"))
    assert not lock_holder.locks_conflict("0-of-3", holder, "1-of-3", LockHolder())


def find_renewed(records, read):
    return lock_holder.find_renewed(records, read, interval=2, expiry=14)


def test_locks_that_are_not_renewed_expire(clock):
    assert find_renewed({"a": b"1", "b": b"1"}, lambda _: b"1") is None
    assert clock.seconds == 14


def test_removed_locks_are_not_waited_for(clock):
    assert find_renewed({"a": b"1", "b": b"1"}, lambda _: None) is None
    assert clock.seconds < 1
    assert find_renewed({}, lambda _: b"1") is None
    assert clock.seconds < 1


def test_the_lock_that_is_renewed_is_found_before_the_others_expire(clock):
    holder = LockHolder.current("plan")

    def read(key):
        return holder.encode(int(key == "b" and clock.seconds > 12))

    assert find_renewed({"a": holder.encode(0), "b": holder.encode(0)}, read) == ("b", holder)
    assert 12 < clock.seconds < 14


def test_a_heartbeat_renews_until_it_is_stopped():
    beats, three = [], threading.Event()

    def renew(beat):
        beats.append(beat)
        if beat == 3:
            three.set()
        if beat == 2:
            raise ShardsError("the store fails for a moment")
        return True

    heartbeat = Heartbeat(renew, 0.001)
    heartbeat.start()
    assert three.wait(30)
    heartbeat.stop()
    assert beats == list(range(1, len(beats) + 1))


def test_a_heartbeat_ends_when_the_lock_is_lost():
    beats = []
    heartbeat = Heartbeat(lambda beat: beats.append(beat) or beat < 2, 0.001)
    heartbeat.start()
    heartbeat._thread.join(30)
    assert beats == [1, 2]
    heartbeat.stop()


def test_a_heartbeat_that_was_not_started_can_be_stopped():
    Heartbeat(lambda _: True, 0.001).stop()
