import json

import pytest

from stylefinetune.errors import UserError
from stylefinetune.run_report.history import read_history


def test_a_run_is_read_with_its_settings_and_tests(trained):
    run = read_history(trained)
    assert run.name == "trained"
    assert run.settings["train.max_iter"] == 12
    assert len(run.classes) == 4
    assert [iteration for iteration, _ in run.series("test", "accuracy")] == [0, 4, 8, 12]
    assert run.last_test["iteration"] == 12
    assert run.best_test["accuracy"] == max(accuracy for _, accuracy in run.series("test", "accuracy"))
    assert run.evaluation is None
    assert sum(run.outcomes.values()) >= run.outcomes["kept"] > 0


def test_a_run_that_is_writing_its_metrics_is_read(tmp_path):
    entries = [
        {
            "iteration": 0,
            "phase": "train",
            "loss": 2.0,
            "step_ms": 100.0,
            "data_ms": 10.0,
            "test_ms": 500,
            "checkpoint_ms": 0,
        },
        {
            "iteration": 19,
            "phase": "train",
            "loss": 1.0,
            "step_ms": 100.0,
            "data_ms": 0.0,
            "test_ms": 0,
            "checkpoint_ms": 7,
        },
        {"iteration": 20, "phase": "train", "loss": 1.0},  # of an earlier version
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"iteration": 21, "ph')
    run = read_history(tmp_path)
    assert run.entries == entries
    assert run.series("train", "loss") == [(0, 2.0), (19, 1.0), (20, 1.0)]
    assert run.seconds() == pytest.approx({"step": 2.0, "data": 0.01, "test": 0.5, "checkpoint": 0.007})
    assert (run.settings, run.classes, run.outcomes, run.last_test) == ({}, [], {}, None)


def test_a_mistake_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"is not a run's folder: metrics.jsonl can't be read \(No such file"):
        read_history(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics.json can't be read .*; remove it, and evaluate the run again"):
        read_history(tmp_path)
