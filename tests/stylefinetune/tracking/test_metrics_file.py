import json

import pytest

from stylefinetune.errors import RankError
from stylefinetune.tracking.metrics_file import MetricsFile


def test_entries_that_a_resumed_run_repeats_are_dropped(tmp_path):
    entries = [{"iteration": i, "phase": p} for i in (0, 10, 20) for p in ("test", "train")]
    truncated = '{"iteration": 30, "pha'
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + truncated)
    file = MetricsFile(tmp_path / "metrics.jsonl", 10, [0, 20])
    assert file.kept == [
        {"iteration": 0, "phase": "test"},
        {"iteration": 0, "phase": "train"},
        {"iteration": 20, "phase": "test"},
    ]
    entry = file.append(10, "train", {"loss": 1.5})
    assert entry == {"iteration": 10, "phase": "train", "loss": 1.5, "time": entry["time"]}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*file.kept, entry]


def test_a_line_that_is_not_an_entry_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "phase": "train"}\nnot an entry\n')
    with pytest.raises(RankError, match=r"metrics\.jsonl has a line that the run did not write .*; fix it, or move"):
        MetricsFile(tmp_path / "metrics.jsonl", 10, [])


def test_zeros_of_a_power_failure_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0, [])
    file.append(0, "train", {"loss": 1.5})
    with path.open("a") as stream:
        stream.write("\0" * 40 + '"loss": 2.0}\n' + "\0" * 20)
    assert MetricsFile(path, 10, []).kept == [json.loads(path.read_text().splitlines()[0])]
    assert "\0" not in path.read_text()
