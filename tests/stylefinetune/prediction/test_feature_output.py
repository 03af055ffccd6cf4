import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from stylefinetune.prediction.feature_output import open_feature_output

BATCHES = [(["a.jpg", "b\udcff.jpg"], np.arange(24, dtype=np.float32).reshape(2, 3, 4))] * 60
ALL = np.concatenate([batch for _, batch in BATCHES])


def write(path, batches=BATCHES):
    with open_feature_output(path, {"layer": "fc7"}) as write_batch:
        for names, batch in batches:
            write_batch(names, batch)


def test_npy_has_a_row_for_each_name(tmp_path):
    write(tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), ALL)
    assert (tmp_path / "x.names.txt").read_text() == "a.jpg\nb\\udcff.jpg\n" * 60


def test_parquet_has_flat_features_and_their_shape(tmp_path):
    write(tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["picture"].to_pylist() == ["a.jpg", "b\\udcff.jpg"] * 60
    assert json.loads(table.schema.metadata[b"shape"]) == [3, 4]
    assert table.schema.metadata[b"layer"] == b"fc7"
    np.testing.assert_array_equal(np.array(table["features"].to_pylist()).reshape(-1, 3, 4), ALL)


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_without_pictures_the_file_is_empty_and_after_an_error_there_is_none(tmp_path, name):
    write(tmp_path / name, [])
    rows = np.load(tmp_path / name) if name.endswith("npy") else pq.read_table(tmp_path / name)
    assert len(rows) == 0
    with pytest.raises(KeyboardInterrupt), open_feature_output(tmp_path / "new" / name, {}) as write_batch:  # noqa: PT012
        write_batch(*BATCHES[0])
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []
