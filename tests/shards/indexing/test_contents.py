from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.indexing.config import IndexConfig
from shards.indexing.contents import join_scans
from shards.indexing.scan_tar import SCAN_SCHEMA


@pytest.fixture
def join(tmp_path):
    """Join scans; each is a tar's path and the (id, label) of its samples, whose hashes are different."""

    def run(scans, **settings):
        paths = []
        for number, samples in enumerate(scans.values()):
            rows = [
                {"id": key, "label": label, "sha256": f"{number}{key}", "image_url": "", "extra": "{}", "message": ""}
                | {"status": "kept", "offset": 0, "length": 0, "width": 1, "height": 1, "format": "jpg"}
                for key, label in samples
            ]
            paths.append(tmp_path / f"{number}.parquet")
            pq.write_table(pa.Table.from_pylist(rows, SCAN_SCHEMA), paths[-1])
        tars = [Path(name) for name in scans]
        return join_scans(tars, paths, IndexConfig(("x",), tmp_path, **settings))

    return run


def test_keys_are_unique_across_tars_and_valid(join):
    contents = join({"a.tar": [("1", "x"), ("2", "y")], "b.tar": [("1", "x"), ("ä b", "y")]})
    assert contents.keys == ["1", "2", "1-2", "__b-3"]


def test_names_of_classes_are_sorted_and_numbers_stay(join):
    assert join({"a.tar": [("1", "dog"), ("2", "cat")]}).recipe.classes == ("cat", "dog")
    assert join({"a.tar": [("1", "2"), ("2", "0")]}).labels.label.tolist() == [2, 0]
    folders = join({"a.tar": [("1", "10"), ("2", "2")]}, label_from="folder")
    assert (folders.recipe.classes, folders.labels.label.tolist()) == (("10", "2"), [0, 1])


def test_splits_come_from_names_if_every_tar_has_one(join):
    scans = {"x/train/0.tar": [("1", "0")], "x/imagenet-val-0.tar": [("2", "0"), ("3", "0")]}
    assert join(scans).recipe.rows_of_tars == {"test": [2], "train": [1]}
    assert join(scans, split="all").recipe.rows_of_tars == {"all": [1, 2]}


def test_splits_are_drawn_by_picture_otherwise(join):
    scans = {"train.tar": [(str(number), "0") for number in range(200)], "b.tar": [("x", "0")]}
    contents = join(scans, test_share=0.25)
    counts = contents.recipe.rows_of_tars
    assert sum(counts["test"]) + sum(counts["train"]) == 201
    assert 20 < counts["test"][0] < 90
    assert contents.splits.tolist() == join(scans, test_share=0.25).splits.tolist()
    assert contents.splits.tolist() != join(scans, test_share=0.25, seed=1).splits.tolist()
    assert join(scans, test_share=0).recipe.rows_of_tars == {"train": [200, 1]}


def test_a_tar_without_samples_has_no_block(join):
    contents = join({"a.tar": [], "b.tar": [("1", "0")]}, split="train")
    assert contents.tars_of("train") == [1]
    with pytest.raises(ShardsError, match="none of the 1 tars has a picture"):
        join({"a.tar": []})


def test_a_label_that_is_no_class_is_named(join):
    with pytest.raises(ShardsError, match=r"b\.tar: the sample k3 has the label 'cat'; numbers go from 0"):
        join({"a.tar": [("k1", "0")], "empty.tar": [], "b.tar": [("k2", "0"), ("k3", "cat")]})
