from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.format.index import (
    FORMAT_VERSION,
    INDEX_SCHEMA,
    METADATA_KEY,
    IndexMetadata,
    ShardIndex,
    write_index,
    write_parts,
)
from tests.assembly import corrupt_parquet

METADATA = IndexMetadata(classes=("noir", "hazy"), encode_format="original", image_size=0, list_sha256="ab", seed=7)


def table(*splits: str) -> pa.Table:
    rows = [
        {"row": row, "key": f"k{row}", "split": split, "label": row % 2, "shard": f"{split}/00000.tar"}
        | {"offset": 512 * row, "length": 10, "width": 4, "height": 3, "format": "jpg", "sha256": "cd"}
        for row, split in enumerate(splits)
    ]
    return pa.Table.from_pylist(rows, INDEX_SCHEMA)


def test_a_url_is_refused_with_the_command_that_copies_it():
    with pytest.raises(ShardsError, match=r"^s3://a/b c: a folder .*: aws s3 cp --recursive 's3://a/b c' DIR$"):
        ShardIndex.load(Path("s3://a/b c"))


def test_what_is_written_is_read(tmp_path):
    write_index(tmp_path / "index.parquet", [table("train", "test", "train")], METADATA)
    index = ShardIndex.load(tmp_path)
    assert index.metadata == METADATA
    assert index.splits == ["test", "train"]
    train = index.entries("train")
    assert (train.key, train.label.tolist(), train.offset.tolist()) == (["k0", "k2"], [0, 0], [0, 1024])
    assert len(index.entries("val")) == 0


def test_many_tables_are_written_in_row_groups_and_read_as_one(tmp_path):
    part = pa.table({"number": pa.array(range(6000))})
    write_parts(tmp_path / "many", (part for _ in range(8)), part.schema)
    assert [
        pq.read_metadata(tmp_path / "many").row_group(group).num_rows
        for group in range(pq.read_metadata(tmp_path / "many").num_row_groups)
    ] == [18000, 18000, 12000]
    assert pq.read_table(tmp_path / "many").column("number").to_pylist() == list(range(6000)) * 8
    write_parts(tmp_path / "none", [], part.schema)
    assert len(pq.read_table(tmp_path / "none")) == 0


def test_the_fingerprint_depends_on_the_contents_and_not_on_the_path(tmp_path):
    fingerprints = []
    for name, splits in {"a": ("train", "test"), "b": ("train", "test"), "c": ("train", "train")}.items():
        (tmp_path / name).mkdir()
        write_index(tmp_path / name / "index.parquet", [table(*splits)], METADATA)
        fingerprints.append(ShardIndex.load(tmp_path / name).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_missing_index_names_the_command(tmp_path):
    with pytest.raises(ShardsError, match="python -m shards assemble"):
        ShardIndex.load(tmp_path)


def test_a_damaged_and_a_newer_index_are_refused_in_one_line(tmp_path):
    path = tmp_path / "index.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ShardsError, match="python -m shards finalize"):
        ShardIndex.load(tmp_path)
    newer = METADATA.to_bytes().replace(f'"format_version": {FORMAT_VERSION}'.encode(), b'"format_version": 99')
    pq.write_table(table("train").replace_schema_metadata({METADATA_KEY: newer}), path)
    with pytest.raises(ShardsError, match="99"):
        ShardIndex.load(tmp_path)
    corrupt_parquet(path)
    with pytest.raises(ShardsError, match="python -m shards finalize"):
        ShardIndex.load(tmp_path)
