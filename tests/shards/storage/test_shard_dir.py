import dataclasses
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.config.recipe import Recipe
from shards.errors import ShardsError
from shards.files import publish_file
from shards.storage.file_lock import exclusive_lock
from shards.storage.shard_dir import Block, create_shard_dir, load_shard_dir, read_part
from shards.url_list.parse import ROWS_SCHEMA
from tests.assembly import corrupt_parquet
from tests.recipes import make_recipe

RECIPE = make_recipe(rows_per_shard=3)


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
    with exclusive_lock(root) as work:
        return create_shard_dir(
            root, dataclasses.replace(recipe, classes=("noir",), list_lengths=(count,)), rows(count).to_reader(), work
        )


def test_rows_are_divided_into_blocks_split_by_split(tmp_path):
    made = create(tmp_path)
    blocks = made.blocks()
    assert [block.shard for block in blocks][:3] == ["test/00000.tar", "test/00001.tar", "train/00000.tar"]
    assert [row["row"] for row in made.rows_of(blocks[0])] == [0, 5, 10]
    assert [row["row"] for row in made.rows_of(blocks[1])] == [15]
    assert sorted(row["row"] for block in blocks for row in made.rows_of(block)) == list(range(20))


def test_a_stored_dir_is_loaded_unchanged(tmp_path):
    made = create(tmp_path)
    loaded = load_shard_dir(tmp_path)
    assert loaded.rows.equals(made.rows)
    assert loaded.recipe == made.recipe
    assert loaded.recipe.classes == ("noir",)
    assert loaded.recipe.list_lengths == (20,)


def test_a_block_is_committed_by_its_last_file(tmp_path):
    made = create(tmp_path)
    block = Block("train", 0)
    assert not made.is_committed(block)
    for name in (block.shard, block.index_part, block.outcomes_part):
        assert not made.is_committed(block)
        (tmp_path / "draft").write_text("x")
        publish_file(tmp_path / "draft", tmp_path / name)
    assert made.is_committed(block)
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize("lost", ["shard", "index_part", "outcomes_part"])
def test_a_block_that_lost_a_file_is_not_committed(tmp_path, lost):
    made = create(tmp_path)
    block = Block("train", 0)
    for name in (block.shard, block.index_part, block.outcomes_part):
        (tmp_path / "draft").write_text("x")
        publish_file(tmp_path / "draft", tmp_path / name)
    (tmp_path / getattr(block, lost)).unlink()
    assert not made.is_committed(block)


def write_block(root: Path, block: Block, count: int) -> None:
    entries = pa.table({"offset": pa.array([0], pa.int64()), "length": pa.array([5], pa.int64())})
    (root / "train").mkdir(exist_ok=True)
    (root / block.shard).write_bytes(b"12345")
    pq.write_table(entries, root / block.index_part)
    pq.write_table(pa.table({"row": list(range(count))}), root / block.outcomes_part)


def test_a_block_that_has_grown_is_committed_up_to_its_old_rows(tmp_path):
    made = create(tmp_path)
    block = Block("train", 1)
    for count in (2, 3):
        write_block(tmp_path, block, count)
        assert made.committed_rows(block) == count
        assert made.is_committed(block) == (count == made.size_of(block))
    (tmp_path / block.shard).write_bytes(b"1234")  # truncated
    assert made.committed_rows(block) == 0


def test_a_damaged_part_is_reported_and_not_silently_made_again(tmp_path):
    made = create(tmp_path)
    block = Block("train", 1)
    write_block(tmp_path, block, 3)
    corrupt_parquet(tmp_path / block.index_part)
    assert made.is_committed(block)
    with pytest.raises(ShardsError, match=f"{block.index_part} can't be read"):
        read_part(tmp_path, block.index_part)
    corrupt_parquet(tmp_path / block.outcomes_part)
    assert made.is_committed(block)
    (tmp_path / block.outcomes_part).write_bytes(b"PAR1")
    assert made.is_committed(block)
    with pytest.raises(
        ShardsError, match=f"{block.outcomes_part} can't be read .*; remove it, and the assemble command"
    ):
        read_part(tmp_path, block.outcomes_part)


def test_the_last_block_has_the_remaining_rows(tmp_path):
    made = create(tmp_path)
    assert [made.size_of(block) for block in made.blocks()] == [len(made.rows_of(block)) for block in made.blocks()]
    assert made.size_of(Block("test", 1)) == 1


def test_a_folder_without_shards_names_the_command(tmp_path):
    with pytest.raises(ShardsError, match="shards assemble"):
        load_shard_dir(tmp_path)


def test_damaged_stored_rows_are_an_error(tmp_path):
    create(tmp_path)
    corrupt_parquet(tmp_path / "blocks" / "rows.parquet")
    with pytest.raises(ShardsError, match=r"rows\.parquet"):
        load_shard_dir(tmp_path)
    (tmp_path / "blocks" / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardsError, match=r"rows\.parquet"):
        load_shard_dir(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_created_is_an_error_with_the_remedy(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ShardsError, match=r"can't be made or written \(Not a directory\); give a folder"):
        create(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ShardsError, match="can't be made or written"):
            create(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)
