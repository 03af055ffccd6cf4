import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stylefinetune.errors import RankError
from stylefinetune.prediction import output_file
from stylefinetune.prediction.output_file import complete_file, parquet_output, printable, text_output


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "out.txt"
    with complete_file(path) as draft:
        draft.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_or_an_interruption_keeps_the_former_file(tmp_path):
    (path := tmp_path / "out.txt").write_text("former")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), text_output(path) as file:  # noqa: PT012
            file.write("half")
            raise error
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RankError, match=r"out\.txt can't be written \(File exists\)"),
        text_output(tmp_path / "file" / "out.txt"),
    ):
        pass
    with pytest.raises(FileNotFoundError), text_output(tmp_path / "out.txt"):  # about another file
        (tmp_path / "gone").read_text()


def test_without_a_path_text_goes_to_stdout(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with text_output(None) as stream:
        stream.write("x")
    assert sys.stdout.getvalue() == "x"


def test_rows_of_a_parquet_file_are_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(output_file, "_GROUP_BYTES", 100)
    schema = pa.schema({"n": pa.int64()})
    with parquet_output(tmp_path / "x.parquet", schema) as write:
        for start in range(0, 50, 5):
            write([pa.array(range(start, start + 5), pa.int64())])
    assert pq.read_table(tmp_path / "x.parquet")["n"].to_pylist() == list(range(50))
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 4
    with parquet_output(tmp_path / "x.parquet", schema):
        pass
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0


def test_a_name_that_is_not_text_is_escaped():
    assert printable("ü\udcff.jpg") == "ü\\udcff.jpg"
