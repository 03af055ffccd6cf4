import io

from rich.console import Console

from shards import progress
from shards.progress import ProgressLine


def test_lines_tell_the_counts_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.0)
    text = io.StringIO()
    with ProgressLine(Console(file=text), 10) as meter:
        meter.count(alive=1, size=5000)
        meter.count(alive=1, size=5000)
        meter.count(dead=1)
        meter.count(alive=-1, dead=1)
        meter.show()
    line = text.getvalue()
    assert line.startswith("3/10 files, ")
    for part in (" files/s, ", "B/s, ", "1 alive, ", "2 dead, ", "ETA "):
        assert part in line
    assert line.count("\n") == 1
    assert "\x1b" not in line


def test_a_terminal_gets_a_bar():
    text = io.StringIO()
    with ProgressLine(Console(file=text, force_terminal=True, width=150), 10) as meter:
        meter.count(alive=4, dead=1, size=10)
        meter.show()
    assert "5/10" in text.getvalue()
    assert "4 alive, 1 dead" in text.getvalue()


def test_what_gets_done_passes_through_and_is_counted(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.0)
    text = io.StringIO()
    assert list(progress.watch(iter("abc"), 3, "blocks read", Console(file=text))) == ["a", "b", "c"]
    assert text.getvalue().splitlines() == ["1/3 blocks read", "2/3 blocks read", "3/3 blocks read"]
