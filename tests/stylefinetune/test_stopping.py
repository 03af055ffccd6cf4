import os
import signal
import threading
import time

import pytest

from stylefinetune import stopping
from stylefinetune.stopping import Stopping
from stylefinetune.world import World


@pytest.fixture
def world():
    world = World.join(deterministic=False)
    yield world
    world.leave()


def ask_until(asked, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if asked():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_becomes_the_answer_to_a_question(world, number):
    with Stopping(world, lambda *_: None) as stop:
        assert not stop.asked()
        assert stop.by is None
        os.kill(os.getpid(), number)
        assert ask_until(stop.asked)
        assert stop.by == number


def test_a_second_one_leaves_at_once_and_an_echo_of_the_first_does_not(world, monkeypatch):
    monkeypatch.setattr(stopping, "SAME_SIGNAL", 0.2)
    left, told = threading.Event(), []

    def leave(by, why):
        told.append((by, why))
        left.set()

    with Stopping(world, leave) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert ask_until(stop.asked)
        assert not left.wait(0.3)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert left.wait(5)
    assert told == [(signal.SIGUSR1, "the second signal")]


def test_the_handlers_are_given_back(world):
    before = signal.getsignal(signal.SIGTERM)
    with Stopping(world, lambda *_: None):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
