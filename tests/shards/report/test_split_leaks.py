import json

import cv2
import pyarrow as pa
import pytest

from shards.report import near_duplicates
from shards.report.split_leaks import find_near_pairs, find_split_leaks
from shards.url_list.provenance import owner_of
from shards.url_list.select import select_rows
from shards.url_list.source import read_source
from tests.drawn_outcomes import OFFICIAL, draw_photo, index_of
from tests.recipes import make_recipe


def test_keys_in_several_splits_are_found():
    pairs = [("ann", "train"), ("ann", "test"), ("ann", "train"), ("bob", "train"), (None, "test"), (None, "train")]
    leak = find_split_leaks([*pairs, ("eve", "val"), ("eve", "test"), ("eve", "test"), ("eve", "test")])
    assert leak.keys == 3
    assert leak.shared == {"eve": {"test": 3, "val": 1}, "ann": {"test": 1, "train": 2}}
    assert list(leak.shared) == ["eve", "ann"]
    assert [leak.rows_in(split) for split in ("train", "test", "val")] == [2, 4, 1]


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"the official list isn't here: no {OFFICIAL}")
def test_the_official_list_has_6026_of_17428_photographers_in_both_splits():
    rows = select_rows(read_source([str(OFFICIAL)]), make_recipe())[0].read_all()
    extras, splits = rows.column("extra").to_pylist(), rows.column("split").to_pylist()
    leak = find_split_leaks((owner_of(json.loads(extra)), split) for extra, split in zip(extras, splits, strict=True))
    assert (len(leak.shared), leak.keys) == (6026, 17_428)


def test_only_copies_in_different_splits_are_found(tmp_path):
    photos = [draw_photo(number) for number in range(6)]
    small = cv2.resize(photos[0], (120, 80), interpolation=cv2.INTER_AREA)
    table = index_of(tmp_path, [*photos, small, photos[5]])
    # The last picture has the bytes of photo 5, which is in train: it is found without a hash.
    digests = table.column("sha256").to_pylist()
    table = table.set_column(10, table.schema.field(10), pa.array([*digests[:7], digests[5]]))
    splits = pa.array(["train"] * 3 + ["test"] + ["train"] * 2 + ["test"] * 2)
    pairs = find_near_pairs(tmp_path, table.set_column(2, table.schema.field(2), splits))
    assert [(pair.row, pair.other) for pair in pairs] == [(6, 0)]
    assert 0 <= pairs[0].bits <= near_duplicates.NEAR_DUPLICATE_BITS
    assert find_near_pairs(tmp_path, table) == []  # there is only one split
