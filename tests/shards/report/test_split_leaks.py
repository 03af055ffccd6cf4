import json

import cv2
import numpy as np
import pyarrow as pa
import pytest

from shards.format.columns import Names
from shards.format.index import INDEX_FILE, IndexFile, write_index
from shards.format.repeats import hash_text
from shards.report import near_duplicates
from shards.report.split_leaks import MAX_NAMED, find_near_pairs, find_split_leaks
from shards.url_list.provenance import owner_of
from shards.url_list.select import select_rows
from shards.url_list.source import read_source
from tests.drawn_outcomes import OFFICIAL, draw_photo, index_of
from tests.recipes import make_recipe


def leak_of(pairs):
    """Find the leaks among pairs of key and split."""
    keys, splits = zip(*pairs, strict=True)
    hashes = np.array([*map(hash_text, keys)])
    return find_split_leaks(hashes, Names.join([pa.array(splits)]), lambda at: [keys[position] for position in at])


def test_keys_in_several_splits_are_found():
    pairs = [("ann", "train"), ("ann", "test"), ("ann", "train"), ("bob", "train"), (None, "test"), (None, "train")]
    leak = leak_of([*pairs, ("eve", "val"), ("eve", "test"), ("eve", "test"), ("eve", "test")])
    assert (leak.keys, leak.shared) == (3, 2)
    assert leak.largest == {"eve": {"test": 3, "val": 1}, "ann": {"test": 1, "train": 2}}
    assert list(leak.largest) == ["eve", "ann"]
    assert leak.rows == {"train": 2, "test": 4, "val": 1}


def test_without_keys_and_without_leaks_nothing_is_found():
    for pairs in ([(None, "train"), (None, "test")], [("ann", "train"), ("ann", "train"), ("bob", "test")]):
        leak = leak_of(pairs)
        assert (leak.keys, leak.shared, leak.largest) == (len({key for key, _ in pairs} - {None}), 0, {})
        assert leak.rows == {"train": 0, "test": 0}


def test_of_many_keys_those_with_most_rows_are_named_and_equal_ones_by_name():
    pairs = [(f"p{number:03}", split) for number in range(90, 0, -1) for split in ("train", "test")]
    leak = leak_of([*pairs, *[("p077", "test")] * 2, ("p050", "train")])
    assert (leak.keys, leak.shared, leak.rows) == (90, 90, {"train": 91, "test": 92})
    assert list(leak.largest) == ["p077", "p050", *(f"p{number:03}" for number in range(1, MAX_NAMED - 1))]
    assert leak.largest["p077"] == {"test": 3, "train": 1}


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"the official list isn't here: no {OFFICIAL}")
def test_the_official_list_has_6026_of_17428_photographers_in_both_splits():
    rows = select_rows(read_source([str(OFFICIAL)]), make_recipe())[0].read_all()
    owners = (owner_of(json.loads(extra)) for extra in rows.column("extra").to_pylist())
    leak = leak_of(zip(owners, rows.column("split").to_pylist(), strict=True))
    assert (leak.shared, leak.keys) == (6026, 17_428)


def near_pairs(root, table):
    write_index(root / INDEX_FILE, [table], make_recipe().index_metadata)
    return find_near_pairs(root, IndexFile(root))


def test_only_copies_in_different_splits_are_found(tmp_path):
    photos = [draw_photo(number) for number in range(6)]
    small = cv2.resize(photos[0], (120, 80), interpolation=cv2.INTER_AREA)
    table = index_of(tmp_path, [*photos, small, photos[5]])
    # The last picture has the bytes of photo 5, which is in train: it is found without a hash.
    digests = table.column("sha256").to_pylist()
    table = table.set_column(10, table.schema.field(10), pa.array([*digests[:7], digests[5]]))
    splits = pa.array(["train"] * 3 + ["test"] + ["train"] * 2 + ["test"] * 2)
    pairs = near_pairs(tmp_path, table.set_column(2, table.schema.field(2), splits))
    assert [(pair.row, pair.other) for pair in pairs] == [(6, 0)]
    assert 0 <= pairs[0].bits <= near_duplicates.NEAR_DUPLICATE_BITS
    assert near_pairs(tmp_path, table) == []  # there is only one split
