import pytest

from shards.storage import lock_holder


class Clock:
    """A clock on which only sleeping takes time, and which takes none."""

    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock by which locks and leases expire."""
    clock = Clock()
    monkeypatch.setattr(lock_holder, "time", clock)
    return clock
