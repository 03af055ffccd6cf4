import dataclasses
from pathlib import Path

import numpy as np
import pytest

from shards.assembly import row_order
from shards.assembly.row_order import open_or_create
from shards.errors import ShardsError
from shards.storage.file_lock import exclusive_lock
from shards.storage.shard_dir import ShardDir, load_shard_dir
from shards.url_list.source import Source
from tests.recipes import make_recipe

SEED = 5


def listed(*rows: str, header: str = "id,image_url,label,split") -> Source:
    return Source("list.csv", {"": "\n".join([header, *rows]).encode()})


def numbered(count: int, start: int = 0) -> list[str]:
    return [f"p{row},http://h/{row},{row % 3},train" for row in range(start, count)]


@pytest.fixture
def open_dir(tmp_path):
    """Open a DIR for a list, as an assembly with these settings does."""

    def open_(source: Source, root: Path = tmp_path, **settings) -> ShardDir:
        recipe = make_recipe(**{"list_sha256": source.sha256, "seed": SEED, "rows_per_shard": 4} | settings)
        with exclusive_lock(root) as work:
            return open_or_create(root, recipe, work, source)

    return open_


def order(made: ShardDir) -> list[int]:
    return made.rows.column("row").to_pylist()


def test_the_order_is_fixed_on_first_use(open_dir, tmp_path):
    made = open_dir(listed(*numbered(10)))
    assert order(made) == np.random.RandomState(SEED).permutation(10).tolist()
    assert load_shard_dir(tmp_path).recipe == made.recipe
    assert made.recipe.list_lengths == (10,)
    assert made.recipe.classes == ("0", "1", "2")


def test_an_unchanged_list_is_not_read_again(open_dir, monkeypatch):
    made = open_dir(listed(*numbered(10)))
    monkeypatch.delattr(row_order, "select_rows")
    assert open_dir(listed(*numbered(10))).rows.equals(made.rows)
    with pytest.raises(NameError):
        open_dir(listed(*numbered(11)))


def test_more_images_extend_the_same_permutation(open_dir, tmp_path):
    source = listed(*numbered(20))
    complete = open_dir(source, tmp_path / "complete")
    for images in (5, 6, 13, -1):
        made = open_dir(source, tmp_path / "grown", images=images)
        assert made.rows.equals(complete.rows.slice(0, images) if images > 0 else complete.rows)
        assert load_shard_dir(tmp_path / "grown").recipe.images == images


def test_new_rows_of_a_list_are_permuted_separately_and_appended(open_dir, tmp_path):
    first = order(open_dir(listed(*numbered(10))))
    second = order(open_dir(listed(*numbered(16))))
    third = open_dir(listed(*numbered(23)))
    draw = lambda count: np.random.RandomState(SEED).permutation(count)  # noqa: E731
    assert second == [*first, *(10 + draw(6))]
    assert order(third) == [*second, *(16 + draw(7))]
    assert load_shard_dir(tmp_path).recipe.list_lengths == (10, 16, 23)
    assert third.recipe.list_sha256 == listed(*numbered(23)).sha256


def test_a_part_of_a_grown_list_has_the_order_of_the_complete_one(open_dir, tmp_path):
    for images in (4, 8):
        open_dir(listed(*numbered(10)), tmp_path / "part", images=images)
    part = open_dir(listed(*numbered(16)), tmp_path / "part", images=12)
    open_dir(listed(*numbered(10)), tmp_path / "complete")
    complete = open_dir(listed(*numbered(16)), tmp_path / "complete")
    assert part.rows.equals(complete.rows.slice(0, 12))
    assert open_dir(listed(*numbered(16)), tmp_path / "part").rows.equals(complete.rows)


def test_stored_rows_keep_their_keys(open_dir):
    first = ["a b,http://h/0,0,train", "x,http://h/1,0,train", ",http://h/2,0,train"]
    before = open_dir(listed(*first)).rows.to_pylist()
    # These ids would have got those keys if they had come first.
    late = ["a_b-0,http://h/3,0,train", "x,http://h/4,0,train", "00000002,http://h/5,0,train"]
    after = open_dir(listed(*first, *late)).rows.to_pylist()
    assert after[:3] == before
    assert {row["row"]: row["key"] for row in before} == {0: "a_b-0", 1: "x", 2: "00000002"}
    assert len({row["key"] for row in after}) == 6


def test_a_new_column_applies_to_the_new_rows_only(open_dir):
    before = open_dir(listed(*numbered(4))).rows.to_pylist()
    wider = listed(*(f"{row},p" for row in numbered(6)), header="id,image_url,label,split,page_url")
    after = open_dir(wider).rows.to_pylist()
    assert after[:4] == before
    assert [row["extra"] for row in after[4:]] == ['{"page_url": "p"}'] * 2


@pytest.mark.parametrize("change", ["p3,http://h/other,0,train", "p3,http://h/3,2,train", "p3,http://h/3,0,test"])
def test_a_list_with_changed_rows_is_refused_and_the_first_is_named(open_dir, tmp_path, change):
    before = open_dir(listed(*numbered(8)))
    rows = numbered(12)
    rows[3] = change
    rows[6] = "p6,http://h/else,0,train"
    with pytest.raises(ShardsError, match=r"--list list.csv: line 5 differs from the list .* append new rows"):
        open_dir(listed(*rows))
    assert load_shard_dir(tmp_path).rows.equals(before.rows)


def test_a_list_with_fewer_rows_is_refused(open_dir):
    open_dir(listed(*numbered(8)))
    with pytest.raises(ShardsError, match="has 7 rows, but had 8; rows may only be added at its end"):
        open_dir(listed(*numbered(7)))


def test_a_list_with_moved_rows_is_refused(open_dir):
    open_dir(listed(*numbered(8)))
    with pytest.raises(ShardsError, match="line 2 differs from the list"):
        open_dir(listed("new,http://h/new,0,train", *numbered(8)))


def test_a_changed_label_that_changes_the_selection_is_refused(open_dir):
    rows = numbered(12)
    open_dir(listed(*rows), labels=2, images=6)
    taken = open_dir(listed(*rows), labels=2, images=6).rows.to_pylist()
    row = taken[2]["row"]
    rows[row] = f"p{row},http://h/{row},2,train"
    with pytest.raises(ShardsError, match="differs from the list"):
        open_dir(listed(*rows, *numbered(15, 12)), labels=2, images=7)


@pytest.mark.parametrize("images", [7, 1])
def test_fewer_images_are_refused(open_dir, images):
    open_dir(listed(*numbered(10)), images=8)
    with pytest.raises(ShardsError, match=f"has 8 rows, more than --images {images}; use another --out"):
        open_dir(listed(*numbered(10)), images=images)


def named(*names: str) -> Source:
    return listed(*(f"p{row},http://h/{row},{name},train" for row, name in enumerate(names)))


def test_a_new_class_that_sorts_last_is_added(open_dir):
    assert open_dir(named("hazy", "noir")).recipe.classes == ("hazy", "noir")
    grown = open_dir(named("hazy", "noir", "sunny"))
    assert grown.recipe.classes == ("hazy", "noir", "sunny")
    assert sorted(grown.rows.column("label").to_pylist()) == [0, 1, 2]


def test_a_new_class_that_changes_the_order_is_refused_without_classes(open_dir):
    open_dir(named("hazy", "noir"))
    grown = named("hazy", "noir", "bokeh")
    with pytest.raises(ShardsError, match="give --classes, a file with one name per line: hazy, noir, then"):
        open_dir(grown)
    made = open_dir(grown, classes=("hazy", "noir", "bokeh"))
    assert {row["row"]: row["label"] for row in made.rows.to_pylist()} == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize(
    ("change", "named_"),
    [({"seed": 2}, "seed 5, not 2"), ({"labels": 2}, "labels None, not 2"), ({"classes": ("x",)}, "the classes 0, 1")],
)
def test_other_settings_are_refused_and_named(open_dir, change, named_):
    open_dir(listed(*numbered(10)))
    with pytest.raises(ShardsError, match=f"was made from {named_}.*; use another --out, or the same settings"):
        open_dir(listed(*numbered(10)), **change)


def test_a_caffe_list_that_changed_is_refused(open_dir):
    source = Source("train=train.txt", {"train": b"a.jpg 0\nb.jpg 1\n"}, {"train": "train.txt"})
    made = open_dir(source)
    assert order(made) == [0, 1]
    assert open_dir(source).rows.equals(made.rows)
    longer = dataclasses.replace(source, parts={"train": b"a.jpg 0\nb.jpg 1\nc.jpg 1\n"})
    with pytest.raises(ShardsError, match="was made from another list"):
        open_dir(longer)
