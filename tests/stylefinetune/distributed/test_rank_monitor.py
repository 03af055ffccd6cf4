import datetime as dt
import os
import subprocess
import threading

import pytest
import torch.distributed as dist

from stylefinetune.distributed import rank_monitor
from stylefinetune.distributed.heartbeat import Heartbeat, LostRank
from stylefinetune.distributed.rank_monitor import RankMonitor

HOST = os.uname().nodename


class Ranks:
    """Three ranks over one store, all at iteration 41. The clock is injected: at each sleep every live rank publishes.

    Attributes:
        heartbeats: one for each rank.
        dead: ranks that publish nothing any more.
        monitors: one for each rank.
    """

    def __init__(self):
        timeout = dt.timedelta(seconds=60)
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timeout)
        self.dead = set()
        self.heartbeats = [Heartbeat(rank, 3, store) for rank in range(3)]
        self.monitors = [
            RankMonitor(heartbeat, 60.0, launcher=None, sleep=self._publish) for heartbeat in self.heartbeats
        ]
        for heartbeat in self.heartbeats:
            heartbeat.set_activity("reading data", 41)
            heartbeat.publish()

    def _publish(self, _seconds):
        for rank in {0, 1, 2} - self.dead:
            self.heartbeats[rank].publish()


@pytest.fixture
def ranks():
    return Ranks()


@pytest.fixture
def fast_heartbeat(monkeypatch):
    monkeypatch.setattr(rank_monitor, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(rank_monitor, "GRACE", 0.1)


def test_no_rank_is_lost_while_all_publish_and_do_the_same(ranks):
    assert [monitor.find_lost_rank() for monitor in ranks.monitors] == [None] * 3


def test_a_rank_without_heartbeats_is_lost(ranks):
    ranks.dead = {2}
    expected = LostRank(f"rank 2 on {HOST} has died or stalled while reading data at iteration 41", 0)
    assert ranks.monitors[0].find_lost_rank() == ranks.monitors[1].find_lost_rank() == expected


def test_several_lost_ranks_are_all_named(ranks):
    ranks.dead = {1, 2}
    message = f"rank 1 on {HOST} has died or stalled while reading data at iteration 41; also ranks 2"
    assert ranks.monitors[0].find_lost_rank() == LostRank(message, 0)


def test_the_lowest_remaining_rank_reports(ranks):
    ranks.dead = {0}
    assert ranks.monitors[2].find_lost_rank().reporter == 1


def test_a_rank_whose_process_has_exited_has_died(ranks):
    exited = subprocess.Popen(["true"])
    exited.wait()
    ranks.heartbeats[1]._process = (1, HOST, exited.pid)
    ranks.heartbeats[1].publish()
    ranks.dead = {1}
    message = f"rank 1 on {HOST} has died while reading data at iteration 41"
    assert ranks.monitors[0].find_lost_rank().message == message


def test_a_live_rank_that_is_behind_has_stalled(ranks):
    for heartbeat in ranks.heartbeats[:2]:
        heartbeat.set_activity("in the step", 41)
    message = f"rank 2 on {HOST} has stalled for 60 s while reading data at iteration 41"
    assert ranks.monitors[1].find_lost_rank() == LostRank(message, 0)


def test_an_announced_exit_is_returned_without_any_search(ranks):
    reason = LostRank(f"rank 2 on {HOST}: the disk is full", 2, code=2)
    ranks.heartbeats[2].announce_exit(reason)
    ranks.dead = {2}
    assert ranks.monitors[1].find_lost_rank() == reason


def test_a_missing_store_is_reported():
    class Gone:
        def set(self, _key, _value):
            raise RuntimeError("Connection reset by peer")

        def multi_get(self, _keys):
            raise RuntimeError("Connection reset by peer")

    monitor = RankMonitor(Heartbeat(1, 2, Gone()), 60.0, launcher=None, sleep=lambda _seconds: None)
    assert monitor.find_lost_rank().message.startswith("the store shared by the ranks is gone")


def reported_by_thread(monitor):
    """Run the monitor's thread until it reports a lost rank; return what it reports."""
    reported, lost = threading.Event(), []
    monitor.on_lost_rank = lambda why: (lost.append(why), reported.set())
    monitor.start()
    assert reported.wait(60)
    monitor.close()
    return lost[0]


@pytest.mark.usefixtures("fast_heartbeat")
def test_the_thread_reports_a_stalled_main_thread():
    stalled = RankMonitor(Heartbeat(0, 1, None), 0.1, launcher=os.getppid())
    stalled.heartbeat.set_activity("reading data", 7)
    message = f"rank 0 on {HOST} has stalled for 0.1 s while reading data at iteration 7"
    assert reported_by_thread(stalled) == LostRank(message, 0)


def test_starting_has_no_time_limit():
    lost = []
    slow = RankMonitor(Heartbeat(0, 1, None), 0.1, launcher=os.getppid())
    slow.on_lost_rank = lost.append
    slow.heartbeat._since -= 1000
    slow._check()
    assert lost == []


@pytest.mark.usefixtures("fast_heartbeat")
def test_the_thread_reports_a_launcher_that_has_exited(monkeypatch):
    orphan = RankMonitor(Heartbeat(3, 1, None), 60.0, launcher=os.getppid())
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert reported_by_thread(orphan).message == f"the launcher of rank 3 on {HOST} is gone"


@pytest.mark.usefixtures("fast_heartbeat")
def test_the_thread_goes_on_after_a_heartbeat_without_memory():
    attempts = threading.Semaphore(0)

    class Refused:
        def set(self, _key, _value):
            attempts.release()
            raise MemoryError

    short = RankMonitor(Heartbeat(1, 2, Refused()), 60.0, launcher=None)
    short.start()
    assert all(attempts.acquire(timeout=60) for _ in range(3))
    short.close()


@pytest.mark.usefixtures("fast_heartbeat")
def test_closing_waits_for_a_call_of_the_store():
    calls, release, returned = [], threading.Event(), threading.Event()

    class SlowHeartbeat(Heartbeat):
        def publish(self):
            calls.append(threading.current_thread())
            if len(calls) == 2:  # the first of the thread
                release.wait(60)
                returned.set()

    monitor = RankMonitor(SlowHeartbeat(0, 1, None), 60.0, launcher=None)
    monitor.start()
    while len(calls) < 2:
        pass
    threading.Timer(0.05, release.set).start()
    monitor.close()
    assert returned.is_set()
    assert not calls[1].is_alive()
