import dataclasses
import os
from pathlib import Path

import pyarrow as pa
import pytest

from shards.blocks import Block, Recipe, load, open_or_create, publish
from shards.index import ShardsError
from shards.locks import exclusive
from shards.urls import ROWS_SCHEMA

RECIPE = Recipe(
    list_sha256="ab" * 32,
    images=-1,
    seed=1,
    labels=None,
    test_share=0.2,
    encode_format="original",
    image_size=0,
    rows_per_shard=3,
)


def rows(count: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"row": row, "key": f"k{row}", "image_url": "u", "split": "train" if row % 5 else "test", "label": 0}
            | {"extra": "{}"}
            for row in range(count)
        ],
        ROWS_SCHEMA,
    )


def create(root: Path, recipe: Recipe = RECIPE, count: int = 20):
    with exclusive(root) as work:
        return open_or_create(root, recipe, work, lambda: (rows(count), ("noir",)))


def test_rows_are_cut_into_blocks_split_by_split(tmp_path):
    made = create(tmp_path)
    blocks = made.blocks()
    assert [block.shard for block in blocks][:3] == ["test/00000.tar", "test/00001.tar", "train/00000.tar"]
    assert [row["row"] for row in made.rows_of(blocks[0])] == [0, 5, 10]
    assert [row["row"] for row in made.rows_of(blocks[1])] == [15]
    assert sorted(row["row"] for block in blocks for row in made.rows_of(block)) == list(range(20))


def test_the_order_is_kept_and_the_list_is_not_read_again(tmp_path):
    made = create(tmp_path)

    def read():
        raise AssertionError("the rows are stored")

    with exclusive(tmp_path) as work:
        again = open_or_create(tmp_path, RECIPE, work, read)
    assert again.rows.equals(made.rows)
    assert again.recipe.classes == load(tmp_path).recipe.classes == ("noir",)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"list_sha256": "cd" * 32}, "another list"),
        ({"seed": 2}, "seed 1, not 2"),
        ({"encode_format": "pixels"}, "encode_format original, not pixels"),
        ({"images": 5}, "images -1, not 5"),
        ({"rows_per_shard": 4}, "rows_per_shard 3, not 4"),
        ({"split": "by_owner"}, "split official, not by_owner"),
        ({"classes": ("hazy",)}, "the classes noir, not hazy"),
    ],
)
def test_another_recipe_is_refused_by_its_difference(tmp_path, change, named):
    create(tmp_path)
    with pytest.raises(ShardsError, match=named):
        create(tmp_path, dataclasses.replace(RECIPE, **change))


def test_a_block_is_committed_by_its_last_file(tmp_path):
    made = create(tmp_path)
    block = Block("train", 0)
    assert not made.is_committed(block)
    for name in (block.shard, block.index_part, block.outcomes_part):
        assert not made.is_committed(block)
        (tmp_path / "draft").write_text("x")
        publish(tmp_path / "draft", tmp_path / name)
    assert made.is_committed(block)
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize("lost", ["shard", "index_part", "outcomes_part"])
def test_a_block_that_lost_a_file_is_not_committed(tmp_path, lost):
    made = create(tmp_path)
    block = Block("train", 0)
    for name in (block.shard, block.index_part, block.outcomes_part):
        (tmp_path / "draft").write_text("x")
        publish(tmp_path / "draft", tmp_path / name)
    (tmp_path / getattr(block, lost)).unlink()
    assert not made.is_committed(block)


def test_a_folder_without_shards_names_the_command(tmp_path):
    with pytest.raises(ShardsError, match="python -m shards assemble"):
        load(tmp_path)


def test_stored_rows_that_are_damaged_are_one_line(tmp_path):
    create(tmp_path)
    (tmp_path / "blocks" / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardsError, match=r"rows\.parquet"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_line_with_the_remedy(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ShardsError, match=r"can't be made or written \(Not a directory\); give a folder"):
        create(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ShardsError, match="can't be made or written"):
            create(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)
