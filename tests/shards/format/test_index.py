import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.format.index import (
    FORMAT_VERSION,
    INDEX_SCHEMA,
    LABELS,
    METADATA_KEY,
    IndexMetadata,
    ShardIndex,
    write_index,
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


def test_entries_of_mixed_and_of_consecutive_splits_are_those_of_the_split(tmp_path):
    for splits in (["train"] * 3 + ["test"] * 2 + ["val"], ["train", "test", "train", "val", "test", "train"]):
        write_index(tmp_path / "index.parquet", [table(*splits)], METADATA)
        index = ShardIndex.load(tmp_path)
        for split in ("train", "test", "val"):
            rows = [row for row, each in enumerate(splits) if each == split]
            entries = index.entries(split)
            assert list(entries.key) == [f"k{row}" for row in rows]
            assert entries.label.tolist() == [row % 2 for row in rows]
            assert entries.offset.tolist() == [512 * row for row in rows]
            assert (entries.shard.distinct, entries.format.distinct) == ([f"{split}/00000.tar"], ["jpg"])
            assert entries.shard_ends().tolist() == [512 * rows[-1] + 10]
            found = index.pictures_of(f"{split}/00000.tar")
            assert found == [{"key": f"k{row}", "offset": 512 * row, "length": 10, "sha256": "cd"} for row in rows]


def test_pictures_of_a_tar_are_read_from_their_row_groups(tmp_path):
    rows = table(*["train"] * 40)
    shards = pa.array([f"train/0000{row // 10}.tar" for row in range(40)])
    rows = rows.set_column(4, rows.schema.field(4), shards)
    rows = rows.replace_schema_metadata({METADATA_KEY: METADATA.to_bytes()})
    pq.write_table(rows, tmp_path / "index.parquet", row_group_size=7)
    index = ShardIndex.load(tmp_path)
    for number in range(4):
        found = index.pictures_of(f"train/0000{number}.tar")
        assert [row["key"] for row in found] == [f"k{row}" for row in range(10 * number, 10 * number + 10)]


def test_an_index_that_is_replaced_after_it_was_loaded_is_refused(tmp_path):
    write_index(tmp_path / "index.parquet", [table("train", "test")], METADATA)
    index = ShardIndex.load(tmp_path)
    write_index(tmp_path / "index.parquet", [table("train", "test", "test")], METADATA)
    with pytest.raises(ShardsError, match="has changed since it was first read; run the same command again"):
        index.pictures_of("test/00000.tar")


def test_the_columns_of_a_large_index_take_few_bytes_a_row(tmp_path):
    """The columns' own bytes, which are the same on every machine."""
    count = 60_000
    rows = {"row": range(count), "key": [f"{row:010d}" for row in range(count)], "split": ["train"] * count}
    rows |= {
        "label": [row % 1000 for row in range(count)],
        "shard": [f"train/{row // 5:05d}.tar" for row in range(count)],
    }
    rows |= {"offset": [row * 100_000 for row in range(count)], "length": [90_000] * count, "width": [500] * count}
    rows |= {"height": [400] * count, "format": ["jpg"] * count, "sha256": ["0" * 64] * count}
    write_index(tmp_path / "index.parquet", [pa.table(rows).cast(INDEX_SCHEMA)], METADATA)
    entries = ShardIndex.load(tmp_path).entries("train")
    numbers = [entries.label, entries.offset, entries.length, entries.width, entries.height]
    kept = sum(each.nbytes for each in (*numbers, entries.shard.codes, entries.format.codes))
    assert kept / count == 2 + 8 + 4 + 2 + 2 + 2 + 1


def test_the_fingerprint_depends_on_the_contents_and_not_on_the_path(tmp_path):
    fingerprints = []
    for name, splits in {"a": ("train", "test"), "b": ("train", "test"), "c": ("train", "train")}.items():
        (tmp_path / name).mkdir()
        write_index(tmp_path / name / "index.parquet", [table(*splits)], METADATA)
        fingerprints.append(ShardIndex.load(tmp_path / name).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def hashed(rows: pa.Table) -> str:
    """Hash the rows as the documents describe it."""
    digest = hashlib.sha256(METADATA.to_bytes())
    for column in rows.columns:
        if column.type == pa.string():
            texts = [text.encode() for text in column.to_pylist()]
            digest.update(np.array([*map(len, texts)], np.int64).tobytes() + b"".join(texts))
        else:
            digest.update(column.combine_chunks().to_numpy().tobytes())
    return digest.hexdigest()


def test_the_fingerprint_is_the_same_in_every_release_and_does_not_depend_on_row_groups(tmp_path):
    rows = table(*["train", "test"] * 10_000)
    keys = pa.array(["", "k\u00e4y", *map(str, range(19_998))])
    rows = rows.set_column(1, rows.schema.field(1), keys).replace_schema_metadata({METADATA_KEY: METADATA.to_bytes()})
    for group_rows in (13_000, 20_000, 777):
        pq.write_table(rows, tmp_path / "index.parquet", row_group_size=group_rows)
        assert ShardIndex.load(tmp_path).fingerprint == hashed(rows)
    changed = rows.set_column(1, rows.schema.field(1), pa.array(["k", "\u00e4y", *map(str, range(19_998))]))
    pq.write_table(changed, tmp_path / "index.parquet")
    assert ShardIndex.load(tmp_path).fingerprint == hashed(changed) != hashed(rows)


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


def test_a_missing_index_names_the_command(tmp_path):
    with pytest.raises(ShardsError, match="shards assemble"):
        ShardIndex.load(tmp_path)


def test_a_damaged_and_a_newer_index_are_refused_in_one_line(tmp_path):
    path = tmp_path / "index.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ShardsError, match="shards finalize"):
        ShardIndex.load(tmp_path)
    newer = METADATA.to_bytes().replace(f'"format_version": {FORMAT_VERSION}'.encode(), b'"format_version": 99')
    pq.write_table(table("train").replace_schema_metadata({METADATA_KEY: newer}), path)
    with pytest.raises(ShardsError, match="99"):
        ShardIndex.load(tmp_path)
    corrupt_parquet(path)
    with pytest.raises(ShardsError, match="shards finalize"):
        ShardIndex.load(tmp_path)


def load_with_labels(folder: Path, labels: list[list[int]]) -> ShardIndex:
    rows = table("train", "test", "train").append_column(LABELS, pa.array(labels, LABELS.type))
    write_index(folder / "index.parquet", [rows], METADATA, several_labels=True)
    return ShardIndex.load(folder)


def test_a_picture_may_have_several_labels(tmp_path):
    index = load_with_labels(tmp_path, [[0, 1], [1], [0]])
    assert index.table.column("labels").to_pylist() == [[0, 1], [1], [0]]
    assert index.entries("train").labels.to_arrow().to_pylist() == [[0, 1], [0]]
    assert index.entries("test").labels.to_arrow().to_pylist() == [[1]]
    assert index.entries("val").labels.to_arrow().to_pylist() == []


def test_the_fingerprint_depends_on_all_labels(tmp_path):
    labels = ([[0, 1], [1], [0]], [[0, 1], [1], [0, 1]], [[0], [1], [0, 1]], [[0], [1, 1], [0, 1]])
    assert len({load_with_labels(tmp_path, each).fingerprint for each in labels}) == 4


def test_an_earlier_release_reads_the_first_labels(tmp_path):
    """It reads columns by their names."""
    load_with_labels(tmp_path, [[0, 1], [1], [0]])
    read = pq.read_table(tmp_path / "index.parquet", columns=INDEX_SCHEMA.names)
    assert read.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA).column("label").to_pylist() == [0, 1, 0]
