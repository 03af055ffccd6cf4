import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.local.parquet_pictures import ParquetPictures, picture_name


@pytest.fixture
def write(tmp_path):
    def run(name, values):
        pq.write_table(pa.table({"image": pa.array(values)}), tmp_path / name, row_group_size=100)

    return run


def read(pictures, folder, file, row):
    folder.mkdir(exist_ok=True)
    outcome, path = pictures.take({"row": 7, "image_url": picture_name(file, row)}, folder)
    return path.read_bytes() if path else str(outcome.status), outcome.message


def test_rows_are_read_in_any_order(write, tmp_path):
    write("a.parquet", [b"a%d" % row for row in range(250)])
    write("b#.parquet", [{"bytes": b"b%d" % row, "path": None} for row in range(3)])
    pictures = ParquetPictures(tmp_path, "image")
    for file, row in [("a.parquet", row) for row in (0, 1, 99, 100, 249, 3, 3)] + [
        ("b#.parquet", 2),
        ("a.parquet", 120),
    ]:
        assert read(pictures, tmp_path / "x", file, row) == (f"{file[0]}{row}".encode(), "")


def test_rows_without_bytes_have_an_outcome(write, tmp_path):
    write("a.parquet", [None, {"bytes": None, "path": "x.jpg"}, {"bytes": b"1", "path": None}])
    pictures = ParquetPictures(tmp_path, "image")
    assert read(pictures, tmp_path / "x", "a.parquet", 0) == ("missing_file", "the row has no picture")
    assert read(pictures, tmp_path / "x", "a.parquet", 1) == ("missing_file", "only a path, x.jpg, without bytes")


def test_a_file_that_has_changed_is_named(write, tmp_path):
    write("a.parquet", [b"1"])
    pictures = ParquetPictures(tmp_path, "image")
    with pytest.raises(ShardsError, match=r"a.parquet can't be read: it has 1 rows, and row 5 was listed"):
        read(pictures, tmp_path / "x", "a.parquet", 5)
    (tmp_path / "b.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ShardsError, match=r"b.parquet can't be read"):
        read(pictures, tmp_path / "x", "b.parquet", 0)
