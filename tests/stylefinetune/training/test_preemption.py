import os
import signal
import sys
import threading
import time

import pytest
import torch

from stylefinetune.distributed.world import World
from stylefinetune.training import preemption
from stylefinetune.training.preemption import Preemption
from tests.programs import run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def waits_until(holds):
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def never(by, why):
    raise AssertionError((by, why))


@pytest.mark.parametrize("number", preemption.SIGNALS, ids=lambda number: number.name)
def test_a_signal_becomes_an_answer(number):
    before = signal.getsignal(number)
    with Preemption(ALONE, never) as preemption:
        assert not preemption.requested()
        assert preemption.signal is None
        os.kill(os.getpid(), number)
        assert waits_until(preemption.requested)
        assert preemption.signal is number
    assert signal.getsignal(number) == before


def test_an_echo_of_the_first_signal_is_no_second_one():
    with Preemption(ALONE, never) as preemption:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert waits_until(preemption.requested)
        time.sleep(0.2)


def test_a_second_signal_leaves_at_once(monkeypatch):
    monkeypatch.setattr(preemption, "SAME_SIGNAL", 0.1)
    left, told = threading.Event(), []
    with Preemption(ALONE, lambda by, why: (told.append((by, why)), left.set())) as listener:
        os.kill(os.getpid(), signal.SIGTERM)
        assert waits_until(listener.requested)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        assert left.wait(20)
    assert told == [(signal.SIGINT, "the second signal")]


def test_a_run_that_cannot_agree_in_time_leaves(monkeypatch):
    monkeypatch.setattr(preemption, "DEADLINE", 0.3)
    left, told = threading.Event(), []
    with Preemption(ALONE, lambda by, why: (told.append((by, why)), left.set())):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert left.wait(20)
    assert told == [(signal.SIGUSR1, "0.3 s ago")]


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption(ALONE, never) as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not preemption.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


PROGRAM = """
import os, signal, sys, time
from stylefinetune.training.preemption import Preemption
from stylefinetune.distributed.world import World

world = World.join()
left = []
with Preemption(world, lambda by, why: None) as preemption:
    turns = 0
    while not preemption.requested():
        turns += 1
        if turns == 20 and world.rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01 * world.rank)
        assert turns < 2000
    print(f"rank {world.rank} left after {turns} turns by {preemption.signal.name}.", flush=True)
    world.shutdown()
"""


def test_all_ranks_stop_at_the_same_turn(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=3", "--rdzv_backend=c10d"]
    done = run(sys.executable, *launcher, "--rdzv_endpoint=127.0.0.1:0", program, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    turns = {part.split("turns by SIGUSR1.")[0] for part in done.stdout.split(" left after ")[1:]}
    assert len(turns) == 1, done.stdout
    assert done.stdout.count("by SIGUSR1.") == 3
