import datetime as dt
import os
import subprocess
import threading
import time

import pytest
import torch.distributed as dist

from stylefinetune.distributed import heartbeat
from stylefinetune.distributed.heartbeat import Heartbeat, LostRank

HOST = os.uname().nodename


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "GRACE", 0.2)


@pytest.fixture
def three():
    """Three ranks of one process over a real store, each at iteration 41."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=dt.timedelta(seconds=5))
    ranks = [Heartbeat(rank, 3, store, 60.0, launched=False) for rank in range(3)]
    for rank in ranks:
        rank.start()
        rank.set_activity("reading data", 41)
    yield ranks
    for rank in ranks:
        rank.close()


def test_where_all_live_and_are_level_nobody_is_lost(three):
    assert [rank.find_lost_rank() for rank in three] == [None] * 3


def test_one_that_tells_nothing_any_more_is_lost(three):
    time.sleep(0.3)
    three[2].close()
    time.sleep(0.2)
    line = f"rank 2 on {HOST} has died or stalled while reading data at iteration 41"
    assert three[0].find_lost_rank() == three[1].find_lost_rank() == LostRank(line, 0)


def test_the_lowest_that_is_left_speaks(three):
    time.sleep(0.3)
    three[0].close()
    time.sleep(0.2)
    assert three[2].find_lost_rank().speaker == 1


def test_a_process_that_is_gone_has_died(three, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(three[1], "_me", heartbeat.RankState(1, HOST, gone.pid))
    time.sleep(0.3)
    three[1].close()
    time.sleep(0.2)
    assert three[0].find_lost_rank().line == f"rank 1 on {HOST} has died while reading data at iteration 41"


def test_one_that_lives_but_is_behind_has_stalled(three):
    for rank in three[:2]:
        rank.set_activity("in the step", 41)
    line = f"rank 2 on {HOST} has stalled for 60 s while reading data at iteration 41"
    assert three[1].find_lost_rank() == LostRank(line, 0)


def test_a_last_word_is_believed_before_any_guess(three):
    word = LostRank(f"rank 2 on {HOST}: the disk is full", 2, code=2)
    three[2].announce_exit(word)
    three[2].close()
    assert three[0].announced_exit() == word
    assert three[1].find_lost_rank() == word
    assert three[2].announced_exit() is None


def test_a_rank_whose_main_thread_is_stuck_is_told_of_by_a_thread():
    ended, told = threading.Event(), []
    stuck = Heartbeat(0, 1, None, 0.3, launched=True)
    stuck.on_lost_rank = lambda why: (told.append(why), ended.set())
    stuck.start()
    stuck.set_activity("reading data", 7)
    assert ended.wait(10)
    stuck.close()
    assert told[0] == LostRank(f"rank 0 on {HOST} has stalled for 0.3 s while reading data at iteration 7", 0)


def test_starting_may_take_its_time():
    told = []
    slow = Heartbeat(0, 1, None, 0.1, launched=True)
    slow.on_lost_rank = told.append
    slow.start()
    time.sleep(0.8)
    slow.close()
    assert told == []


def test_a_launcher_that_is_gone_is_noticed(monkeypatch):
    ended, told = threading.Event(), []
    orphan = Heartbeat(3, 1, None, 60.0, launched=True)
    orphan.on_lost_rank = lambda why: (told.append(why.line), ended.set())
    monkeypatch.setattr(os, "getppid", lambda: 1)
    orphan.start()
    assert ended.wait(10)
    orphan.close()
    assert told[0] == f"the launcher of rank 3 on {HOST} is gone"


def test_without_memory_for_a_beat_the_next_one_tells():
    told = threading.Semaphore(0)

    class Refused:
        def set(self, _key, _value):
            told.release()
            raise MemoryError

    short = Heartbeat(1, 2, Refused(), 60.0, launched=False)
    short.start()
    assert all(told.acquire(timeout=10) for _ in range(3))
    short.close()


def test_a_store_that_is_gone_is_said_to_be():
    class Gone:
        def set(self, _key, _value):
            raise RuntimeError("Connection reset by peer")

        def multi_get(self, _keys):
            raise RuntimeError("Connection reset by peer")

    alone = Heartbeat(1, 2, Gone(), 60.0, launched=False)
    assert alone.find_lost_rank().line.startswith("the store that the ranks met through is gone")
