import os
import signal

import cv2
import pytest

from shards.index import ShardsError
from shards.workers import interrupts_held, packing_pool


def interrupt_within(reached: list[str]) -> None:
    with interrupts_held():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")


def test_an_interrupt_comes_once_the_processes_have_started():
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_within(reached)
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_worker_is_another_process_of_one_core():
    with packing_pool(1) as pool:
        assert pool.submit(os.getpid).result(30) != os.getpid()
        assert pool.submit(cv2.getNumThreads).result(30) == 1


def test_a_killed_worker_is_one_line():
    with pytest.raises(ShardsError, match="a packing worker was killed; the same command"), packing_pool(1) as pool:
        pool.submit(os._exit, 9).result(30)
