import io

import pytest
from rich.console import Console

from shards import progress
from shards.progress import DOWNLOADED, ProgressLine, track_progress


@pytest.fixture
def clock(monkeypatch):
    """Returns a list whose one number is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_lines_show_the_counts_rates_and_remaining_time(clock):
    text = io.StringIO()
    with ProgressLine(Console(file=text), 100) as line:
        line.show()
        for _ in range(22):
            clock[0] += 1
            line.count({DOWNLOADED: 2}, 5000)
            line.count({DOWNLOADED: -2, "kept": 1, "corrupt": 1})
            line.show()
        line.count({"gone": 56})
        clock[0] += 10
        line.show()
    assert text.getvalue().splitlines() == [
        "20/100 files, 2 files/s, 5.0 kB/s, 10 alive, 10 dead, ETA 40 s",
        "40/100 files, 2 files/s, 5.0 kB/s, 20 alive, 20 dead, ETA 30 s",
        "100/100 files, packing, 22 alive, 78 dead",
    ]


def test_without_downloads_the_remaining_time_is_unknown(clock):
    text = io.StringIO()
    with ProgressLine(Console(file=text), 100) as line:
        clock[0] += 10
        line.show()
    assert text.getvalue() == "0/100 files, 0 files/s, 0 bytes/s, 0 alive, 0 dead, ETA ?\n"


def test_while_rows_wait_the_line_says_for_what_and_the_remaining_time_is_a_time(clock):
    text = io.StringIO()
    with ProgressLine(Console(file=text), 100) as line:
        line.count({"kept": 80})
        clock[0] += 40
        line.show()
        clock[0] += 40
        line.show(lambda: "waiting for 20 URLs of h, next in 4 s")
    assert (
        text.getvalue().splitlines()[-1].endswith("80 alive, 0 dead, ETA 20 s; waiting for 20 URLs of h, next in 4 s")
    )


def test_a_terminal_gets_a_bar():
    text = io.StringIO()
    with ProgressLine(Console(file=text, force_terminal=True, width=150), 10) as line:
        line.count({"kept": 4, "gone": 1}, 10)
        line.show()
    assert "5/10" in text.getvalue()
    assert "4 alive, 1 dead" in text.getvalue()


def test_the_counts_are_reported_whenever_they_are_shown():
    seen = []
    with ProgressLine(Console(file=io.StringIO()), 10, on_show=lambda *counts: seen.append(counts)) as line:
        line.count({DOWNLOADED: 3, "gone": 1}, 10)
        line.show()
    assert seen == [({DOWNLOADED: 3, "gone": 1}, 10)]


def test_tracked_items_pass_through_and_are_counted(clock):
    def items():
        for item in "abc":
            clock[0] += 6
            yield item

    text = io.StringIO()
    assert list(track_progress(items(), 3, "blocks read", Console(file=text))) == ["a", "b", "c"]
    assert text.getvalue().splitlines() == ["2/3 blocks read, ETA 6 s"]


def test_items_that_stand_for_several_are_counted_as_such(clock):
    def shards():
        for pictures in (30, 10):
            clock[0] += 12
            yield pictures

    text = io.StringIO()
    list(track_progress(shards(), 40, "pictures added up", Console(file=text), lambda pictures: pictures))
    assert text.getvalue().splitlines() == ["30/40 pictures added up, ETA 4 s", "40/40 pictures added up, ETA 0 s"]


def test_on_a_terminal_tracked_items_have_a_bar_with_the_remaining_time():
    text = io.StringIO()
    assert list(track_progress("abc", 3, "blocks read", Console(file=text, force_terminal=True, width=100))) == [*"abc"]
    assert "3/3" in text.getvalue()
    assert "ETA" in text.getvalue()


def test_without_a_console_nothing_is_shown(capsys):
    assert list(track_progress("abc", 3, "blocks read", None)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
