import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.format import index as index_module
from shards.format.index import (
    FORMAT_VERSION,
    INDEX_SCHEMA,
    METADATA_KEY,
    IndexMetadata,
    Names,
    ShardIndex,
    Texts,
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
    assert (list(train.key), train.label.tolist(), train.offset.tolist()) == (["k0", "k2"], [0, 0], [0, 1024])
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


def test_the_fingerprint_of_an_earlier_release_is_recognized(tmp_path):
    write_index(tmp_path / "index.parquet", [table("train", "test")], METADATA)
    index = ShardIndex.load(tmp_path)
    digest = hashlib.sha256(METADATA.to_bytes())
    for column in index.table.columns:
        for value in column.to_pylist():
            digest.update(f"{value}\0".encode())
    assert index.fingerprint_like(digest.hexdigest()) == digest.hexdigest() != index.fingerprint
    assert index.fingerprint_like(index.fingerprint) == index.fingerprint
    assert index.fingerprint_like("0" * 64) == index.fingerprint


def test_the_fingerprint_does_not_depend_on_row_groups(tmp_path):
    whole = table(*["train", "test"] * 300)
    write_index(tmp_path / "index.parquet", [whole], METADATA)
    expected = ShardIndex.load(tmp_path).fingerprint
    parts = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 0), whole.slice(7, 100), whole.slice(107)])
    pq.write_table(
        whole.replace_schema_metadata(pq.read_schema(tmp_path / "index.parquet").metadata),
        tmp_path / "b",
        row_group_size=13,
    )
    (tmp_path / "b").replace(tmp_path / "index.parquet")
    assert ShardIndex.load(tmp_path).fingerprint == expected
    fingerprint = index_module._fingerprint  # a part of the index is hashed as the whole
    assert fingerprint(parts, b"m") == fingerprint(whole, b"m") == fingerprint(whole.combine_chunks(), b"m")
    changed = whole.set_column(1, "key", pa.array(["k", "0k1", *whole.column("key").to_pylist()[2:]]))
    assert fingerprint(changed, b"m") != fingerprint(whole, b"m")


def test_a_column_of_few_names_is_stored_as_numbers():
    column = pa.chunked_array([["b", "a"], [], ["c", "a"]], pa.string())
    names = Names.encode(column)
    assert (names.distinct, names.codes.tolist()) == (["a", "b", "c"], [1, 0, 2, 0])
    assert (list(names), names[2], len(names)) == (["b", "a", "c", "a"], "c", 4)
    assert list(Names.encode(column.slice(0, 0))) == []
    texts = Texts(column)
    assert (list(texts), texts[2], len(texts)) == (["b", "a", "c", "a"], "c", 4)


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
