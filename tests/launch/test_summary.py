import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch import summary


@pytest.fixture
def left(tmp_path):
    """What a quickstart leaves, as far as the summary reads it."""
    shards, run = tmp_path / "data", tmp_path / "runs"
    statuses = ["kept"] * 5 + ["not_found"] * 2 + ["gone"]
    shards.mkdir()
    pq.write_table(pa.table({"status": statuses}), shards / "outcomes.parquet")
    for iteration in (90, 100):
        (run / "checkpoints" / f"iter_{iteration}").mkdir(parents=True)
    told = [
        {"phase": "test", "iteration": 0, "accuracy": 0.05},
        {"phase": "train", "iteration": 0, "loss": 3.0},
        {"phase": "test", "iteration": 50, "accuracy": 0.9},
        {"phase": "test", "iteration": 100, "accuracy": 0.75},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    return shards, run


def test_numbers_come_from_the_files(left):
    text = summary.summarize(*left)
    assert "5 of 8 lived; the rest: 2 not_found, 1 gone" in text
    assert "0.050 untrained, 0.750 after 100 iterations" in text
    assert str(left[1] / "checkpoints" / "iter_100") in text
    for path in (left[0], left[1] / "metrics.jsonl", left[1] / "train.log"):
        assert str(path) in text


def test_a_folder_that_is_not_there_is_one_line(left, capsys):
    with pytest.raises(SystemExit) as caught:
        summary.main([str(left[0] / "elsewhere"), str(left[1])])
    assert caught.value.code == 2
    assert "elsewhere" in capsys.readouterr().err
