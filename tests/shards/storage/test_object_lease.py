"""Leases on a URL, between processes of one machine and of others."""

import contextlib
import itertools
import json
import time

import pytest

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.object_store import ObjectStore
from shards.storage import file_lock, object_lease
from tests.stores import names_of, objects_of, open_store


@pytest.fixture
def url(memory):
    return f"{memory}/x"


@contextlib.contextmanager
def hold(url, stage, partition=None, plan=""):
    """Lock a stage and hold the lease on its URL, as a command does."""
    with (
        file_lock.exclusive_lock(stage, partition, plan),
        object_lease.hold_lease(ObjectStore(url), stage, partition, plan) as lease,
    ):
        yield lease


def hold_once(url, stage, partition=None, plan=""):
    with hold(url, stage, partition, plan):
        pass


def test_the_refusal_names_the_process_that_holds_the_lease_and_nothing_remains(url, tmp_path):
    with hold(url, tmp_path / "a"):
        (name,) = names_of(url)
        assert name.startswith(".work/whole.")
        with pytest.raises(ShardsError, match=rf"^{url} is in use by process \d+ on .*; wait until it has ended$"):
            hold_once(url, tmp_path / "b")
        with pytest.raises(ShardsError, match=f"^{url} is in use by process"):
            hold_once(url, tmp_path / "c", Partition(0, 2))
        assert names_of(url) == {name}
    assert names_of(url) == set()
    with hold(url, tmp_path / "b") as lease:
        lease.check()


def test_partitions_run_at_the_same_time_if_their_counts_and_plans_agree(url, tmp_path):
    differs = "which has another number of partitions, list or setting"
    with hold(url, tmp_path / "a", Partition(0, 2), "list"), hold(url, tmp_path / "b", Partition(1, 2), "list"):
        assert len(names_of(url)) == 2
        for number, (partition, named) in enumerate(
            [
                (Partition(0, 2), r"partition 0/2, is in use by process \d+ on [^,]*; wait"),
                (Partition(2, 3), rf"partition [01]/2, is in use by .*, {differs}"),
                (None, r"partition [01]/2, is in use by process \d+ on [^,]*; wait"),
            ]
        ):
            with pytest.raises(ShardsError, match=named):
                hold_once(url, tmp_path / str(number), partition, "list")
    with (
        hold(url, tmp_path / "a", Partition(0, 2), "list"),
        pytest.raises(ShardsError, match=rf"partition 0/2, is in use by .*, {differs}"),
    ):
        hold_once(url, tmp_path / "c", Partition(1, 2), "another list")


def put_back(url, objects) -> None:
    """Write the objects again that a process removed, as if it had been killed before."""
    fs, base = open_store(url)
    for name, content in objects.items():
        fs.pipe_file(f"{base}/{name}", content)


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(url, tmp_path, clock):
    for stage in ("a", "b"):  # the stage of the killed process, and another
        with hold(url, tmp_path / "a"):
            left, name = objects_of(url), (tmp_path / "a" / "lease").read_text()
        put_back(url, left)
        (tmp_path / "a" / "lease").write_text(name)
        with hold(url, tmp_path / stage):
            assert len(names_of(url)) == 1
            assert not left.keys() & names_of(url)
    assert clock.seconds == 0


def test_another_machine_may_have_the_same_name_and_stage(url, tmp_path, monkeypatch, request):
    monkeypatch.setattr(object_lease, "_EXPIRY_SECONDS", 60.0)
    monkeypatch.setattr(object_lease, "_HEARTBEAT_SECONDS", 0.1)
    with hold(url, tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "its a")  # as a container has its own folders
        with pytest.raises(ShardsError, match=f"^{url} is in use by process"):
            hold_once(url, tmp_path / "a")
        left = objects_of(url)
    put_back(url, left)
    clock = request.getfixturevalue("clock")
    with hold(url, tmp_path / "a"):  # the other process is dead now
        assert not left.keys() & names_of(url)
    assert clock.seconds >= 60


def put_foreign(url, beat: int) -> str:
    fs, base = open_store(url)
    record = {"host": "elsewhere", "process": "process 7 on elsewhere", "plan": "", "stage": "/a", "beat": beat}
    fs.pipe_file(f"{base}/.work/whole.0123.lock", json.dumps(record).encode())
    return ".work/whole.0123.lock"


def test_another_machines_process_holds_the_lease_while_it_renews_it(url, tmp_path, clock, monkeypatch):
    put_foreign(url, 0)
    beats, sleep = itertools.count(1), clock.sleep

    def renew_now_and_then(seconds):
        sleep(seconds)
        if clock.seconds % 30 > 25:  # 30 s is the expiry
            put_foreign(url, next(beats))

    monkeypatch.setattr(clock, "sleep", renew_now_and_then)
    with pytest.raises(ShardsError, match="is in use by process 7 on elsewhere"):
        hold_once(url, tmp_path / "a")
    assert object_lease.find_lease_holder(ObjectStore(url)) == "process 7 on elsewhere"


def test_another_machines_lease_expires_once_it_is_not_renewed(url, tmp_path, clock):
    left = put_foreign(url, 3)
    assert object_lease.find_lease_holder(ObjectStore(url)) is None
    with hold(url, tmp_path / "a"):
        assert left not in names_of(url)
    assert clock.seconds == 2 * object_lease._EXPIRY_SECONDS


def test_a_process_that_lost_its_lease_fails_before_it_uploads_more(url, tmp_path, monkeypatch):
    monkeypatch.setattr(object_lease, "_HEARTBEAT_SECONDS", 0.05)
    with hold(url, tmp_path / "a") as lease:
        lease.check()
        fs, base = open_store(url)
        first = objects_of(url)
        while objects_of(url) == first:  # until its heartbeat
            time.sleep(0.01)
        while lease._heartbeat._thread.is_alive():  # it ends when it finds its object gone
            with contextlib.suppress(FileNotFoundError):
                fs.rm(f"{base}/.work", recursive=True)
            time.sleep(0.01)
        assert names_of(url) == set()
        with pytest.raises(ShardsError, match="another process took over while this one was suspended"):
            lease.check()


def test_damaged_leases_expire_too(url, tmp_path, clock):
    fs, base = open_store(url)
    for number, content in enumerate((b"", b"[]", b"half{")):
        fs.pipe_file(f"{base}/.work/whole.{number}.lock", content)
    with hold(url, tmp_path / "a"):
        assert len(names_of(url)) == 1
    assert clock.seconds >= object_lease._EXPIRY_SECONDS
