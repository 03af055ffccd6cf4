import pytest

from shards.storage import lock_holder
from tests.assembly import serve_pictures
from tests.loopback import Answer


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


@pytest.fixture
def pictures(server, draw_jpg, write_list):
    """A list of 25 pictures, in 5 blocks of 5. Pictures 4, 8 and 12 are equal, and picture 9 isn't found."""
    rows = serve_pictures(server, draw_jpg, 25)
    for number in (8, 12):
        server.add(f"/{number}.jpg", Answer(draw_jpg(4)))
    server.add("/9.jpg", Answer(status=404))
    return write_list(rows)
