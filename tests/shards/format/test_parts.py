import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.format.parts import read_parts, take_rows, write_parts


def test_many_tables_are_written_in_row_groups_and_read_as_one(tmp_path):
    part = pa.table({"number": pa.array(range(6000))})
    write_parts(tmp_path / "many", (part for _ in range(8)), part.schema)
    metadata = pq.read_metadata(tmp_path / "many")
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert groups == [18000, 18000, 12000]
    assert pq.read_table(tmp_path / "many").column("number").to_pylist() == list(range(6000)) * 8
    write_parts(tmp_path / "none", [], part.schema)
    assert len(pq.read_table(tmp_path / "none")) == 0


def test_a_file_of_one_row_group_is_read_in_parts(tmp_path):
    table = pa.table({"a": pa.array(range(50_000)), "b": pa.array(range(1, 50_001))})
    pq.write_table(table, tmp_path / "file")
    parts = list(read_parts(tmp_path / "file"))
    assert max(map(len, parts)) < 20_000
    assert pa.concat_tables(parts).equals(table)
    assert pa.concat_tables(read_parts(tmp_path / "file", ["b", "a"])).equals(table.select(["b", "a"]))
    with pytest.raises(KeyError):
        next(read_parts(tmp_path / "file", ["c"]))


def test_rows_are_taken_from_the_row_groups_that_have_them(tmp_path):
    table = pa.table({"a": pa.array(range(1000)), "b": pa.array(map(str, range(1000)))})
    pq.write_table(table, tmp_path / "file", row_group_size=70)
    for positions in ([], [0], [69, 70, 71, 500, 999], range(1000)):
        found = take_rows(tmp_path / "file", np.array(positions, np.int64), ["b"])
        assert found.column_names == ["b"]
        assert found.column("b").to_pylist() == [str(position) for position in positions]
    damaged = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(b"x" * 300 + damaged[300:])
    assert take_rows(tmp_path / "file", np.array([990]), ["a"]).column("a").to_pylist() == [990]
    with pytest.raises((OSError, ValueError)):
        take_rows(tmp_path / "file", np.array([0]), ["a"])
