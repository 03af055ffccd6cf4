"""Who may write under a URL, between processes of one machine and of others."""

import contextlib
import json
import threading
import time

import pytest

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.storage import file_lock, object_lease
from shards.storage.object_store import ObjectStore
from tests.stores import names_of, objects_of, open_store


@pytest.fixture
def url(memory):
    return f"{memory}/x"


@contextlib.contextmanager
def working(url, stage, partition=None, plan=""):
    """Holds a stage and its URL, as a command does."""
    with (
        file_lock.exclusive_lock(stage, partition, plan),
        object_lease.hold_lease(ObjectStore(url), stage, partition, plan) as lease,
    ):
        yield lease


def test_a_second_process_is_refused_by_the_firsts_name_and_nothing_is_left(url, tmp_path):
    with working(url, tmp_path / "a"):
        (name,) = names_of(url)
        assert name.startswith(".work/whole.")
        with (
            pytest.raises(ShardsError, match=rf"^{url} is in use by process \d+ on .*; wait until it has ended$"),
            working(url, tmp_path / "b"),
        ):
            pass
        with (
            pytest.raises(ShardsError, match=f"^{url} is in use by process"),
            working(url, tmp_path / "c", Partition(0, 2)),
        ):
            pass
        assert names_of(url) == {name}
    assert names_of(url) == set()
    with working(url, tmp_path / "b") as lease:
        lease.check()


def test_partitions_work_side_by_side_unless_they_were_told_otherwise(url, tmp_path):
    with working(url, tmp_path / "a", Partition(0, 2), "list"), working(url, tmp_path / "b", Partition(1, 2), "list"):
        assert len(names_of(url)) == 2
        for number, (partition, plan, named) in enumerate(
            [
                (Partition(0, 2), "list", r"partition 0/2, is in use by process \d+ on [^,]*; wait"),
                (Partition(2, 3), "list", r"partition [01]/2, is in use by .*, which was given another n, list or set"),
                (None, "list", r"partition [01]/2, is in use by process \d+ on [^,]*; wait"),
            ]
        ):
            with pytest.raises(ShardsError, match=named), working(url, tmp_path / str(number), partition, plan):
                pass
    with working(url, tmp_path / "a", Partition(0, 2), "list"):
        named = r"partition 0/2, is in use by .*, which was given another n, list or setting"
        with pytest.raises(ShardsError, match=named), working(url, tmp_path / "c", Partition(1, 2), "another list"):
            pass


def leave(url, left) -> None:
    """Puts again what a process had put that was killed before it removed it."""
    fs, base = open_store(url)
    for name, content in left.items():
        fs.pipe_file(f"{base}/{name}", content)


def test_a_killed_process_of_this_machine_needs_no_waiting(url, tmp_path, monkeypatch):
    monkeypatch.setattr(object_lease, "_EXPIRY_SECONDS", 60.0)  # nobody may be watched
    began = time.monotonic()
    for stage in ("a", "b"):  # where it was killed, and another
        with working(url, tmp_path / "a"):
            left, note = objects_of(url), (tmp_path / "a" / "lease").read_text()
        leave(url, left)
        (tmp_path / "a" / "lease").write_text(note)
        with working(url, tmp_path / stage):
            assert len(names_of(url)) == 1
            assert not left.keys() & names_of(url)
    assert time.monotonic() - began < 60


def test_another_machine_may_have_the_same_name_and_stage(url, tmp_path, monkeypatch):
    monkeypatch.setattr(object_lease, "_EXPIRY_SECONDS", 20.0)
    monkeypatch.setattr(object_lease, "_HEARTBEAT_SECONDS", 0.2)
    with working(url, tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "its a")  # as a container has folders of its own
        with pytest.raises(ShardsError, match=f"^{url} is in use by process"), working(url, tmp_path / "a"):
            pass
        left = objects_of(url)
    leave(url, left)
    monkeypatch.setattr(object_lease, "_EXPIRY_SECONDS", 0.5)
    with working(url, tmp_path / "a"):  # once it is dead
        assert not left.keys() & names_of(url)


def put_foreign(url, beat: int) -> str:
    fs, base = open_store(url)
    record = {"host": "elsewhere", "process": "process 7 on elsewhere", "plan": "", "stage": "/a", "beat": beat}
    fs.pipe_file(f"{base}/.work/whole.0123.lock", json.dumps(record).encode())
    return ".work/whole.0123.lock"


def test_another_machines_process_holds_it_while_it_shows_signs_of_life(url, tmp_path, monkeypatch):
    monkeypatch.setattr(object_lease, "_EXPIRY_SECONDS", 20.0)
    monkeypatch.setattr(object_lease, "_HEARTBEAT_SECONDS", 0.2)
    put_foreign(url, 0)
    ending = threading.Event()

    def live():
        beat = 0
        while not ending.wait(0.1):
            beat += 1
            put_foreign(url, beat)

    other = threading.Thread(target=live)
    other.start()
    try:
        with pytest.raises(ShardsError, match="is in use by process 7 on elsewhere"), working(url, tmp_path / "a"):
            pass
        assert object_lease.find_lease_holder(ObjectStore(url)) == "process 7 on elsewhere"
    finally:
        ending.set()
        other.join()


def test_another_machines_dead_process_is_taken_over_from(url, tmp_path, monkeypatch):
    monkeypatch.setattr(object_lease, "_EXPIRY_SECONDS", 0.5)
    monkeypatch.setattr(object_lease, "_HEARTBEAT_SECONDS", 0.2)
    left = put_foreign(url, 3)
    assert object_lease.find_lease_holder(ObjectStore(url)) is None
    with working(url, tmp_path / "a"):
        assert left not in names_of(url)


def test_whoever_was_taken_over_from_is_told_before_it_puts_more(url, tmp_path, monkeypatch):
    monkeypatch.setattr(object_lease, "_HEARTBEAT_SECONDS", 1)  # seconds; long beside what follows one
    with working(url, tmp_path / "a") as lease:
        lease.check()
        fs, base = open_store(url)
        first = objects_of(url)
        while objects_of(url) == first:  # its beat
            pass
        fs.rm(f"{base}/.work", recursive=True)
        with pytest.raises(ShardsError, match="another process took over while this one stood still"):
            lease.check()
        lease._pulse.join(10)  # which doesn't make the object anew
        assert not lease._pulse.is_alive()
        assert names_of(url) == set()


def test_what_names_nobody_is_watched_like_another_machines(url, tmp_path, monkeypatch):
    monkeypatch.setattr(object_lease, "_EXPIRY_SECONDS", 0.3)
    monkeypatch.setattr(object_lease, "_HEARTBEAT_SECONDS", 0.2)
    fs, base = open_store(url)
    for number, content in enumerate((b"", b"[]", b"half{")):
        fs.pipe_file(f"{base}/.work/whole.{number}.lock", content)
    with working(url, tmp_path / "a"):
        assert len(names_of(url)) == 1
