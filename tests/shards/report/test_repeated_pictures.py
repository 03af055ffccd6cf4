import numpy as np
import pyarrow as pa

from shards.format.repeats import hash_text
from shards.report.repeated_pictures import MAX_SHOWN, find_repeated_pictures
from shards.report.rows import Rows
from tests.drawn_outcomes import draw_photo, rows_from, write_dir


def test_files_are_ordered_by_the_number_of_their_urls_and_their_first_row(tmp_path):
    """Row r has body r % 20, and bodies 3 and 7 have several URLs."""
    lines = [{"image_url": f"http://h/{row if row % 20 in {3, 7} else row % 20}.jpg"} for row in range(200)]
    backwards = rows_from(lines).take(pa.array(range(199, -1, -1)))
    write_dir(tmp_path / "d", backwards, ("x",), [draw_photo(1)], sha_of=lambda row: f"{row % 20:064x}")
    rows = Rows.load(tmp_path / "d")
    kept = np.flatnonzero(rows.has_status("kept"))
    listed = rows.read_rows(kept)
    urls = np.array([hash_text(row.image_url) for row in listed])
    of_body = {body: [row for row in listed if row.row % 20 == body] for body in range(20)}
    found = find_repeated_pictures(rows, kept, urls, 2)
    assert found.count == 2
    expected = [(len(of_body[body]), min(row.row for row in of_body[body])) for body in (3, 7)]
    assert [(each.urls, each.first.row) for each in found.largest] == sorted(
        expected, key=lambda one: (-one[0], one[1])
    )
    every = find_repeated_pictures(rows, kept, urls, 1)
    assert (every.count, len(every.largest)) == (20, MAX_SHOWN)
    first = sorted(min(row.row for row in of_body[body]) for body in range(20) if body not in {3, 7})
    assert [each.first.row for each in every.largest[2:]] == first[: MAX_SHOWN - 2]


def test_without_rows_there_are_none(tmp_path):
    write_dir(tmp_path / "d", rows_from([{"image_url": "http://h/a.jpg"}]), ("x",), [draw_photo(1)])
    found = find_repeated_pictures(Rows.load(tmp_path / "d"), np.array([], np.int64), np.array([], np.int64), 1)
    assert (found.count, found.largest) == (0, [])
