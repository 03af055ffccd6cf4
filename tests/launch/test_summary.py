import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch import summary


@pytest.fixture
def folders(tmp_path):
    """The shards and the run of a quickstart, as far as the summary reads them."""
    shards, run = tmp_path / "data", tmp_path / "runs"
    statuses = ["kept"] * 5 + ["not_found"] * 2 + ["gone"]
    shards.mkdir()
    pq.write_table(pa.table({"status": statuses}), shards / "outcomes.parquet")
    for iteration in (90, 100):
        (run / "checkpoints" / f"iter_{iteration}").mkdir(parents=True)
    entries = [
        {"phase": "test", "iteration": 0, "accuracy": 0.05},
        {"phase": "train", "iteration": 0, "loss": 3.0},
        {"phase": "test", "iteration": 50, "accuracy": 0.9},
        {"phase": "test", "iteration": 100, "accuracy": 0.75},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return shards, run


def test_numbers_come_from_the_files(folders):
    text = summary.summarize(*folders)
    assert "5 of 8 kept; the rest: 2 not_found, 1 gone" in text
    assert "0.050 untrained, 0.750 after 100 iterations" in text
    assert str(folders[1] / "checkpoints" / "iter_100") in text
    for path in (folders[0], folders[1] / "metrics.jsonl", folders[1] / "train.log"):
        assert str(path) in text


def test_a_missing_folder_is_one_line(folders, capsys):
    with pytest.raises(SystemExit) as caught:
        summary.main([str(folders[0] / "elsewhere"), str(folders[1])])
    assert caught.value.code == 2
    assert "elsewhere" in capsys.readouterr().err
