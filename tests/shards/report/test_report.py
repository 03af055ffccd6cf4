import json

import pytest

from shards.__main__ import main
from shards.report.report import NO_YEAR, read_report, show_url
from tests.assembly import corrupt_parquet
from tests.drawn_outcomes import draw_photo, rows_from, write_dir
from tests.loopback import Answer

FLICKR = "http://farm3.staticflickr.com/1/{}_0a.jpg"


@pytest.fixture
def root(tmp_path):
    """60 rows of two classes, two splits and four photographers; the last fifth isn't committed yet."""
    lines = [
        {"image_url": FLICKR.format(9_990_655_000 + number) if number % 3 else f"http://H.org/{number}.jpg"}
        | {"split": "test" if number % 4 == 0 else "train", "label": number % 2}
        | {"extra": json.dumps({"owner": f"owner{number % 4 or number % 8}"})}
        for number in range(60)
    ]
    write_dir(tmp_path / "d", rows_from(lines), ("hazy", "noir"), [draw_photo(1)], done_fraction=0.8)
    return tmp_path / "d"


def test_all_rows_are_counted_in_every_breakdown(root):
    report = read_report(root, near_duplicates=False)
    assert report.whole().total == 60
    assert report.whole().statuses["not_yet"] == 12
    assert report.whole().kept == len(report.index)
    for tallies in (report.by_split(), report.by_label(), report.by_host(), report.by_year()):
        assert sum((each.statuses for each in tallies), type(tallies[0].statuses)()) == report.whole().statuses
    assert [(each.name, each.total) for each in report.by_split()] == [("test", 15), ("train", 45)]
    assert [(each.name, each.total) for each in report.by_label()] == [("hazy", 30), ("noir", 30)]
    assert [(each.name, each.total) for each in report.by_host()] == [("farm3.staticflickr.com", 40), ("h.org", 20)]
    assert [(each.name, each.total) for each in report.by_year()] == [("2013", 40), (NO_YEAR, 20)]


def test_photographers_are_counted_in_the_list_and_among_the_kept(root):
    report = read_report(root, near_duplicates=False)
    listed, kept = report.owners(kept=False), report.owners(kept=True)
    assert listed.keys == 5
    assert listed.across == {}  # each stands in one split
    assert kept.keys <= listed.keys


def test_what_the_web_sent_is_found_again_in_the_report(server, draw_jpg, write_list, run_assemble, tmp_path):
    """A body in both splits, one under two URLs of one split, and a placeholder."""
    bodies = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3}
    rows = [
        {"image_url": server.add(f"/{name}.jpg", Answer(draw_jpg(body))), "label": "noir"}
        | {"split": "test" if name == "b" else "train", "owner": "ann" if name in "be" else "bob"}
        for name, body in bodies.items()
    ]
    unavailable = Answer(draw_jpg(9))
    server.add("/photo_unavailable.png", unavailable)
    rows += [
        {"image_url": server.add(f"/{name}.jpg", Answer(status=302, headers={"Location": "/photo_unavailable.png"}))}
        | {"label": "noir", "split": "train", "owner": "eve"}
        for name in ("x", "y")
    ]
    run_assemble(list=write_list(rows), allow_private=True)
    report = read_report(tmp_path / "out", near_duplicates=False)
    (double,) = report.doubles().across.values()
    assert double == {"test": 1, "train": 1}
    assert [(body.urls, body.row) for body in report.recurring(kept=True)] == [(2, 0), (2, 2)]
    assert [(body.urls, body.status) for body in report.recurring(kept=False)] == [(2, "placeholder")]
    assert report.owners(kept=True).across == {"ann": {"test": 1, "train": 1}}
    assert report.first <= report.last


@pytest.mark.parametrize("lost", ["outcomes.parquet", "index.parquet"])
def test_without_its_files_the_command_that_makes_them_is_named(root, lost, capsys):
    (root / lost).unlink()
    assert main(["report", str(root)]) == 2
    error = capsys.readouterr().err
    assert f"{lost}: no such file; make it with: python -m shards finalize {root}" in error
    assert error.count("\n") == 1
    assert not (root / "report.html").exists()


@pytest.mark.parametrize("damage", [corrupt_parquet, lambda path: path.write_bytes(b"PAR1 and no more")])
def test_a_ledger_that_is_damaged_is_one_line(root, capsys, damage):
    damage(root / "outcomes.parquet")
    assert main(["report", str(root)]) == 2
    error = capsys.readouterr().err
    assert "can't be read" in error
    assert "python -m shards finalize" in error
    assert error.count("\n") == 1


def test_what_cannot_be_printed_is_spelt_out():
    assert show_url("a\x1b[31m\u202eb\n") == "a\\u001b[31m\\u202eb\\u000a"
    assert show_url("x" * 200, 10) == "xxxxxxxxx…"
