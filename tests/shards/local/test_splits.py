from pathlib import Path

import pytest

from shards.local.splits import rename_splits, split_in, split_of, split_of_path


def test_usual_names_of_splits_are_known():
    names = ["train", "Training", "val", "VALID", "validation", "test", "testing", "cat"]
    assert [split_of(name) for name in names] == ["train", "train", "val", "val", "val", "test", "test", None]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet-train-000001", "train"),
        ("val_0", "val"),
        ("cc3m", None),
        ("train-test-0", None),
        ("trainer-01", None),
    ],
)
def test_a_word_of_a_file_name_may_be_a_split(name, split):
    assert split_in(name) == split


def test_val_is_named_test_only_without_a_test_split():
    assert rename_splits(["train", "val"]) == {"train": "train", "val": "test"}
    assert rename_splits(["train", "val", "test"]) == {"train": "train", "val": "val", "test": "test"}


def test_the_file_name_comes_before_the_folders():
    paths = ["data/train-00000-of-00002.parquet", "val/0.tar", "x/test/deep/0.tar", "x/val/test-0.tar", "x/0.tar"]
    assert [split_of_path(Path(path)) for path in paths] == ["train", "val", "test", "test", None]
