import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.storage.row_file import RowFile, write_row_file
from shards.url_list.parse import ROWS_SCHEMA

COUNT = 50_000


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    numbers = np.arange(COUNT)
    columns = {
        "row": pa.array(numbers),
        "key": pa.array([f"k{number}" for number in range(COUNT)]),
        "image_url": pa.array([f"http://h/{number}" for number in range(COUNT)]),
        "split": pa.array(["test" if number % 5 == 1 else "train" for number in range(COUNT)]),
        "label": pa.array((numbers % 7).astype(np.int32)),
        "extra": pa.array(["{}"] * COUNT),
    }
    return pa.table([columns[name] for name in ROWS_SCHEMA.names], ROWS_SCHEMA)


@pytest.fixture(params=["new", "old"])
def file(rows, tmp_path, request) -> RowFile:
    """The rows as they are written now, and in the one row group of earlier releases."""
    path = tmp_path / "rows.parquet"
    if request.param == "new":
        write_row_file(path, rows.to_reader(), {b"recipe": b"{}"})
        assert pq.read_metadata(path).num_row_groups > 1
    else:
        pq.write_table(rows.replace_schema_metadata({b"recipe": b"{}"}), path)
    return RowFile(path)


def test_all_rows_are_read(file, rows):
    assert len(file) == COUNT
    assert file.read().equals(rows)
    assert file.read(["key"]).column_names == ["key"]
    assert file.metadata[b"recipe"] == b"{}"
    assert file.to_reader().read_all().equals(rows)


def test_positions_are_those_of_each_split(file):
    positions = file.positions_by_split()
    assert list(positions) == ["test", "train"]
    assert positions["test"].tolist() == list(range(1, COUNT, 5))
    assert sorted(np.concatenate(list(positions.values())).tolist()) == list(range(COUNT))


@pytest.mark.parametrize("span", [(0, 1), (0, 5), (100, 1000), (16_000, 17_000), (9_000, 40_000), (COUNT - 3, COUNT)])
def test_some_rows_are_taken_across_row_groups(file, rows, span):
    positions = np.arange(*span, 2)
    assert file.take(positions) == rows.take(pa.array(positions)).to_pylist()


def test_a_file_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises((OSError, ValueError, pa.ArrowException)):
        RowFile(tmp_path / "rows.parquet")
