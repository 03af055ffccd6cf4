import os
import signal
import subprocess
import sys
import threading

import cv2
import pytest

from shards.assembly import worker_pool
from shards.assembly.worker_pool import check_interrupt, handle_interrupt, hold_interrupts, packing_pool
from shards.errors import ShardsError


def interrupt_within(reached: list[str]) -> None:
    with hold_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")


def test_an_interrupt_is_delayed_until_the_processes_have_started():
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_within(reached)
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_raised_again(monkeypatch):
    monkeypatch.setattr(worker_pool, "_interrupted", threading.Event())
    before = signal.signal(signal.SIGINT, handle_interrupt)
    try:
        check_interrupt()
        freed = Freed()
        del freed
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            check_interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


_INTERRUPTED_AT_A_SEMAPHORE = """
import os, signal
from multiprocessing import resource_tracker
from shards.assembly.worker_pool import packing_pool

register = resource_tracker.register

def interrupt(name, kind):
    register(name, kind)
    resource_tracker.register = register
    os.kill(os.getpid(), signal.SIGINT)

resource_tracker.register = interrupt
try:
    with packing_pool(1):
        print("a pool")
except KeyboardInterrupt:
    print("stopped")
"""


def test_an_interrupt_while_a_pool_is_made_leaves_no_semaphore():
    command = [sys.executable, "-c", _INTERRUPTED_AT_A_SEMAPHORE]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("stopped\n", "")  # the resource tracker reports leaked semaphores on stderr


def test_a_worker_is_a_separate_process_with_one_thread():
    with packing_pool(1) as pool:
        assert pool.submit(os.getpid).result(30) != os.getpid()
        assert pool.submit(cv2.getNumThreads).result(30) == 1


def test_a_killed_worker_is_an_error():
    with (
        pytest.raises(ShardsError, match="a packing process was killed; run the same"),
        packing_pool(1) as pool,
    ):
        pool.submit(os._exit, 9).result(30)
