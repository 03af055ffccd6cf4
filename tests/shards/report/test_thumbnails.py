import base64

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.format.index import INDEX_FILE, INDEX_SCHEMA, IndexFile, write_index
from shards.report.thumbnails import choose_thumbnails, make_thumbnails
from tests.drawn_outcomes import index_of
from tests.recipes import make_recipe


def written(root, table):
    write_index(root / INDEX_FILE, [table], make_recipe().index_metadata)
    return IndexFile(root)


def test_the_choice_of_each_class_does_not_depend_on_the_order(original_shards, tmp_path):
    index = pq.read_table(original_shards / "index.parquet")
    chosen = choose_thumbnails(written(tmp_path, index), 3)
    assert list(chosen) == [0, 1, 2, 3]
    entries = {entry["row"]: entry for entry in index.to_pylist()}
    for label, rows in chosen.items():
        digests = sorted(entry["sha256"] for entry in entries.values() if entry["label"] == label)
        assert [entries[row]["sha256"] for row in rows] == digests[:3]
    backwards = index.take(pa.array(range(len(index) - 1, -1, -1)))
    assert choose_thumbnails(written(tmp_path, backwards), 3) == chosen


def test_the_choice_from_many_parts_is_that_from_one(tmp_path):
    """More rows than are read together, with some digests several times."""
    random, count = np.random.default_rng(0), 50_000
    entries = {"row": random.permutation(count), "key": ["k"] * count, "split": ["train"] * count}
    entries |= {"label": random.integers(0, 5, count), "shard": ["train/0.tar"] * count}
    entries |= dict.fromkeys(("offset", "length", "width", "height"), np.ones(count, int)) | {"format": ["jpg"] * count}
    digests = [f"{number:05d}" for number in random.integers(0, 20_000, count).tolist()]
    table = pa.table(entries | {"sha256": digests}).select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    expected: dict[int, dict[str, int]] = {label: {} for label in range(5)}
    for label, digest, row in sorted(zip(entries["label"].tolist(), digests, entries["row"].tolist(), strict=True)):
        expected[label].setdefault(digest, row)
    chosen = choose_thumbnails(written(tmp_path, table), 6)
    assert chosen == {label: list(rows.values())[:6] for label, rows in expected.items()}


def test_equal_pictures_are_chosen_once(original_shards, tmp_path):
    index = pq.read_table(original_shards / "index.parquet").slice(0, 8)
    same = index.set_column(index.column_names.index("sha256"), "sha256", pa.array(["ab" * 32] * 8))
    chosen = choose_thumbnails(written(tmp_path, same), 3)
    assert sum(map(len, chosen.values())) == len(set(same.column("label").to_pylist()))


def decode(thumbnail):
    body = base64.b64decode(thumbnail.uri.removeprefix("data:image/jpeg;base64,"))
    return body, cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)


def test_thumbnails_are_small_and_show_the_picture(original_shards):
    index = pq.read_table(original_shards / "index.parquet")
    rows = index.column("row").to_pylist()[:5]
    thumbnails = make_thumbnails(original_shards, IndexFile(original_shards), rows)
    assert sorted(thumbnails) == sorted(rows)
    assert make_thumbnails(original_shards, IndexFile(original_shards), rows) == thumbnails
    for position, row in enumerate(rows):
        body, pixels = decode(thumbnails[row])
        assert len(body) <= 12_288
        assert pixels.shape[:2] == (thumbnails[row].height, thumbnails[row].width)
        assert max(pixels.shape) <= 320
        width, height = index.column("width")[position].as_py(), index.column("height")[position].as_py()
        assert (thumbnails[row].full_width, thumbnails[row].full_height) == (width, height)
        assert abs(pixels.shape[1] / pixels.shape[0] - width / height) < 0.05


def test_noise_that_compresses_badly_gets_a_smaller_thumbnail(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    thumbnails = make_thumbnails(tmp_path, written(tmp_path, index_of(tmp_path, [noise])), [0])
    body, pixels = decode(thumbnails[0])
    assert len(body) <= 12_288
    assert pixels.shape == (144, 192, 3)
