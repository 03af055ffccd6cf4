import io

import pytest
from rich.console import Console

from shards import progress
from shards.progress import ProgressLine, track_progress


@pytest.fixture
def clock(monkeypatch):
    """Returns a list whose one number is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_lines_show_the_counts_rates_and_remaining_time(clock):
    text = io.StringIO()
    with ProgressLine(Console(file=text), 10) as line:
        line.count(alive=1, size=5000)
        line.count(alive=1, size=5000)
        line.count(dead=1)
        line.count(alive=-1, dead=1)
        line.show()
        clock[0] += 10
        line.show()
        line.show()
        clock[0] += 10
        line.count(alive=2, size=40_000)
        line.show()
        line.count(dead=5)
        clock[0] += 10
        line.show()
    assert text.getvalue().splitlines() == [
        "3/10 files, 0 files/s, 1.0 kB/s, 1 alive, 2 dead, ETA 23 s",
        "5/10 files, 0 files/s, 2.5 kB/s, 3 alive, 2 dead, ETA 20 s",
        "10/10 files, packing, 3 alive, 7 dead",
    ]


def test_a_terminal_gets_a_bar():
    text = io.StringIO()
    with ProgressLine(Console(file=text, force_terminal=True, width=150), 10) as line:
        line.count(alive=4, dead=1, size=10)
        line.show()
    assert "5/10" in text.getvalue()
    assert "4 alive, 1 dead" in text.getvalue()


def test_tracked_items_pass_through_and_are_counted(clock):
    def items():
        for item in "abc":
            clock[0] += 6
            yield item

    text = io.StringIO()
    assert list(track_progress(items(), 3, "blocks read", Console(file=text))) == ["a", "b", "c"]
    assert text.getvalue().splitlines() == ["2/3 blocks read"]
