import base64

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.report.thumbnails import choose_thumbnails, make_thumbnails
from tests.drawn_outcomes import index_of


def test_the_choice_of_each_class_does_not_depend_on_the_order(original_shards):
    index = pq.read_table(original_shards / "index.parquet")
    chosen = choose_thumbnails(index, 3)
    assert sorted(chosen) == [0, 1, 2, 3]
    assert all(len(rows) == 3 for rows in chosen.values())
    labels = dict(zip(index.column("row").to_pylist(), index.column("label").to_pylist(), strict=True))
    assert all(labels[row] == label for label, rows in chosen.items() for row in rows)
    backwards = index.take(pa.array(range(len(index) - 1, -1, -1)))
    assert choose_thumbnails(backwards, 3) == chosen


def test_equal_pictures_are_chosen_once(original_shards):
    index = pq.read_table(original_shards / "index.parquet").slice(0, 8)
    same = index.set_column(index.column_names.index("sha256"), "sha256", pa.array(["ab" * 32] * 8))
    assert sum(map(len, choose_thumbnails(same, 3).values())) == len(set(same.column("label").to_pylist()))


def decode(thumbnail):
    body = base64.b64decode(thumbnail.uri.removeprefix("data:image/webp;base64,"))
    return body, cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)


def test_thumbnails_are_small_and_show_the_picture(original_shards):
    index = pq.read_table(original_shards / "index.parquet")
    rows = index.column("row").to_pylist()[:5]
    thumbnails = make_thumbnails(original_shards, index, rows)
    assert sorted(thumbnails) == sorted(rows)
    assert make_thumbnails(original_shards, index, rows) == thumbnails
    for position, row in enumerate(rows):
        body, pixels = decode(thumbnails[row])
        assert len(body) <= 8192
        assert pixels.shape[:2] == (thumbnails[row].height, thumbnails[row].width)
        assert max(pixels.shape) <= 192
        width, height = index.column("width")[position].as_py(), index.column("height")[position].as_py()
        assert abs(pixels.shape[1] / pixels.shape[0] - width / height) < 0.05


def test_noise_that_compresses_badly_gets_a_smaller_thumbnail(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (144, 192, 3), np.uint8)
    thumbnails = make_thumbnails(tmp_path, index_of(tmp_path, [noise]), [0])
    body, pixels = decode(thumbnails[0])
    assert len(body) <= 8192
    assert pixels.shape == (72, 96, 3)
