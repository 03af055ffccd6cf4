import json

import pyarrow.parquet as pq
import pytest

from shards.__main__ import main
from shards.report.report import UNKNOWN_YEAR, printable, read_report
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


def test_every_breakdown_counts_all_rows(root):
    report = read_report(root, near_duplicates=False)
    assert report.overall.total == 60
    assert report.overall.statuses["not_yet"] == 12
    assert report.overall.kept == len(report.pictures.width)
    for counts in (report.by_split, report.by_label, report.by_host, report.by_year):
        assert sum((each.statuses for each in counts), type(counts[0].statuses)()) == report.overall.statuses
    assert [(each.name, each.total) for each in report.by_split] == [("test", 15), ("train", 45)]
    assert [(each.name, each.total) for each in report.by_label] == [("hazy", 30), ("noir", 30)]
    assert [(each.name, each.total) for each in report.by_host] == [("farm3.staticflickr.com", 40), ("h.org", 20)]
    assert [(each.name, each.total) for each in report.by_year] == [("2013", 40), (UNKNOWN_YEAR, 20)]


def test_a_list_of_local_pictures_has_no_hosts_and_no_years(tmp_path):
    lines = [{"image_url": f"photos/{number}.jpg"} for number in range(4)]
    write_dir(tmp_path / "d", rows_from(lines), ("noir",), [draw_photo(1)])
    report = read_report(tmp_path / "d", near_duplicates=False)
    assert (report.by_host, report.by_year) == ([], [])


def test_photographers_are_counted_among_all_rows_and_the_kept_ones(root):
    report = read_report(root, near_duplicates=False)
    listed, kept = report.owners, report.kept_owners
    assert listed.keys == 5
    assert listed.shared == 0  # each is in one split only
    assert kept.keys <= listed.keys


def test_equal_pictures_and_placeholders_are_found(server, draw_jpg, write_list, run_assemble, tmp_path):
    """One picture is in both splits, one has two URLs in one split, and one is a placeholder."""
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
    (splits,) = report.duplicates.largest.values()
    assert splits == {"test": 1, "train": 1}
    assert [(picture.urls, picture.first.row) for picture in report.repeated.largest] == [(2, 0), (2, 2)]
    assert [(picture.urls, picture.first.status) for picture in report.placeholders.largest] == [(2, "placeholder")]
    assert report.kept_owners.largest == {"ann": {"test": 1, "train": 1}}
    assert report.rows.first <= report.rows.last


def test_equal_pictures_of_several_classes_are_named(server, draw_jpg, write_list, run_assemble, tmp_path, capsys):
    bodies = [("cat", 1), ("dog", 1), ("cat", 1), ("cat", 2), ("cat", 2), ("dog", 3)]
    urls = [server.add(f"/{row}.jpg", Answer(draw_jpg(body))) for row, (_, body) in enumerate(bodies)]
    rows = [{"image_url": url, "label": label, "split": "train"} for url, (label, _) in zip(urls, bodies, strict=True)]
    run_assemble(list=write_list(rows), allow_private=True)
    conflicts = read_report(tmp_path / "out", near_duplicates=False).conflicts
    assert (conflicts.shared, conflicts.keys) == (1, 3)
    ((url, classes),) = conflicts.largest.items()
    assert url in urls[:3]
    assert classes == {"cat": 2, "dog": 1}
    assert main(["report", str(tmp_path / "out")]) == 0
    found = f"kept pictures in more than one class, byte for byte: 1 of 3; {url} is cat and dog"
    assert found in capsys.readouterr().out.splitlines()
    assert f'<th scope="row">{url}</th><td>cat, dog</td>' in (tmp_path / "out" / "report.html").read_text()


def test_pictures_of_several_labels_have_no_conflicts(server, draw_jpg, write_list, run_assemble, tmp_path):
    url = server.add("/1.jpg", Answer(draw_jpg(1)))
    rows = [{"image_url": url, "label": label, "split": "train"} for label in ("cat", "cat|dog", "dog")]
    run_assemble(list=write_list(rows), label_separator="|")
    assert read_report(tmp_path / "out", near_duplicates=False).conflicts is None


def test_each_status_has_the_first_row_with_it_as_an_example(root):
    report = read_report(root, near_duplicates=False)
    order = pq.read_table(root / "blocks" / "rows.parquet").column("row").to_pylist()
    status = {row["row"]: row["status"] for row in pq.read_table(root / "outcomes.parquet").to_pylist()}
    for each in report.statuses:
        first = next(row for row in order if status.get(row, "not_yet") == each.status)
        assert each.rows == report.overall.statuses[each.status]
        assert each.example is None if each.status in {"kept", "not_yet"} else each.example.row == first


@pytest.mark.parametrize("lost", ["outcomes.parquet", "index.parquet"])
def test_a_missing_file_is_an_error_that_names_the_command(root, lost, capsys):
    (root / lost).unlink()
    assert main(["report", str(root)]) == 2
    error = capsys.readouterr().err
    assert f"{lost}: no such file; make it with: shards finalize {root}" in error
    assert error.count("\n") == 1
    assert not (root / "report.html").exists()


@pytest.mark.parametrize("damage", [corrupt_parquet, lambda path: path.write_bytes(b"PAR1 and no more")])
def test_a_ledger_that_is_damaged_is_one_line(root, capsys, damage):
    damage(root / "outcomes.parquet")
    assert main(["report", str(root)]) == 2
    error = capsys.readouterr().err
    assert "can't be read" in error
    assert "shards finalize" in error
    assert error.count("\n") == 1


def test_characters_that_cannot_be_printed_are_escaped():
    assert printable("a\x1b[31m\u202eb\n") == "a\\u001b[31m\\u202eb\\u000a"
    assert printable("x" * 200, 10) == "xxxxxxxxx…"
