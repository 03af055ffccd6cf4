import os
import signal
import threading
import time

import pytest
import torch

from stylefinetune.distributed.world import World
from stylefinetune.training import preemption
from stylefinetune.training.preemption import Preemption
from tests.programs import python

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def never(by, why):
    raise AssertionError((by, why))


@pytest.mark.parametrize("number", preemption.SIGNALS, ids=lambda number: number.name)
def test_a_signal_requests_a_stop(number):
    before = signal.getsignal(number)
    with Preemption(ALONE, never) as preemption:
        assert not preemption.requested()
        assert preemption.signal is None
        os.kill(os.getpid(), number)
        assert wait_until(preemption.requested)
        assert preemption.signal is number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("same_signal", "exits"), [(600.0, 0), (-1.0, 2)])
def test_a_repeated_signal_soon_after_the_first_counts_as_one(monkeypatch, same_signal, exits):
    monkeypatch.setattr(preemption, "SAME_SIGNAL", same_signal)
    calls = []
    with Preemption(ALONE, lambda by, why: calls.append((by, why))) as listener:
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "signals")
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert wait_until(listener.requested)
    thread.join(20)  # it ends when it has handled all signals
    assert not thread.is_alive()
    assert calls == [(signal.SIGINT, "the second signal")] * exits


def test_a_second_signal_exits_at_once(monkeypatch):
    monkeypatch.setattr(preemption, "SAME_SIGNAL", 0.1)
    exited, calls = threading.Event(), []
    with Preemption(ALONE, lambda by, why: (calls.append((by, why)), exited.set())) as listener:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_until(listener.requested)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        assert exited.wait(20)
    assert calls == [(signal.SIGINT, "the second signal")]


def test_a_run_without_agreement_in_time_exits(monkeypatch):
    monkeypatch.setattr(preemption, "DEADLINE", 0.3)
    exited, calls = threading.Event(), []
    with Preemption(ALONE, lambda by, why: (calls.append((by, why)), exited.set())):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert exited.wait(20)
    assert calls == [(signal.SIGUSR1, "which arrived 0.3 s ago")]


def test_sighup_stays_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption(ALONE, never) as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGINT)
            assert wait_until(preemption.requested)
            assert preemption.signal is signal.SIGINT  # the first that is handled
    finally:
        signal.signal(signal.SIGHUP, before)


PROGRAM = """
import os, signal, sys, time
from stylefinetune.training.preemption import Preemption
from stylefinetune.distributed.world import World

world = World.join()
with Preemption(world, lambda by, why: None) as preemption:
    calls = 0
    while not preemption.requested():
        calls += 1
        if calls == 20 and world.rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01 * world.rank)
        assert calls < 2000
    print(f"rank {world.rank} stopped after {calls} calls by {preemption.signal.name}.", flush=True)
    world.shutdown()
"""


def test_all_ranks_stop_at_the_same_call():
    done = python("-c", PROGRAM, ranks=3)
    assert done.returncode == 0, done.stderr
    counts = {part.split("calls by SIGUSR1.")[0] for part in done.stdout.split(" stopped after ")[1:]}
    assert len(counts) == 1, done.stdout
    assert done.stdout.count("by SIGUSR1.") == 3
