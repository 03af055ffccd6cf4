import io

import pytest
from rich.console import Console

from shards.__main__ import main
from shards.report.report import read_report
from shards.report.tables import print_tables
from tests.drawn_outcomes import draw_photo, rows_from, write_dir

HOSTILE = "http://h/[red]\x1b[31m<script>.jpg"


@pytest.fixture
def root(tmp_path):
    lines = [{"image_url": HOSTILE if number == 50 else f"http://h{number % 25}/{number}.jpg"} for number in range(400)]
    write_dir(tmp_path / "d", rows_from(lines), ("[bold]noir\x07",), [draw_photo(1)])
    return tmp_path / "d"


def test_tables_are_plain_text_in_a_pipe_and_show_the_counts(root, capsys):
    assert main(["report", str(root)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    report = read_report(root, near_duplicates=False)
    overall = report.overall
    assert f"400 rows, {overall.kept} kept" in out
    lines = [line.split() for line in out.splitlines()]
    for status, count in overall.statuses.items():
        assert [status, str(count)] in [[line[0], next(filter(str.isdigit, line), "")] for line in lines if line]
    assert ["train", "400", str(overall.kept)] in [line[:3] for line in lines]
    assert "5 others" in out or "6 others" in out  # 25 hosts, and the one of the hostile URL
    assert "[bold]noir\\u0007" in out
    assert "year posted" not in out  # which only Flickr's photos show
    assert f"{root / 'report.html'}: " in out


def test_text_from_the_web_is_not_interpreted_as_markup(root):
    text = io.StringIO()
    print_tables(read_report(root, near_duplicates=False), Console(file=text, force_terminal=True, width=200))
    assert "[bold]noir\\u0007" in text.getvalue()
    assert "\x1b[31m" not in text.getvalue()
