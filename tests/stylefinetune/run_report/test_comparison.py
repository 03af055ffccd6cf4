import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stylefinetune.run_report.comparison import compare_predictions, differing_settings
from stylefinetune.run_report.history import RunHistory


def run(folder, settings, ranks=None):
    """Return a run in which the picture `key` has this rank of the true class."""
    folder.mkdir()
    if ranks:
        (folder / "evaluation").mkdir()
        table = pa.table({"key": list(ranks), "label": [0] * len(ranks), "rank": list(ranks.values())})
        pq.write_table(table, folder / "evaluation" / "predictions.parquet")
    return RunHistory(folder.name, folder, settings, [], [], None, {})


def test_settings_that_differ_are_listed(tmp_path):
    first = run(tmp_path / "a", {"optim.base_lr": 0.1, "train.seed": 1, "run_dir": "a", "model.arch": "x"})
    second = run(tmp_path / "b", {"optim.base_lr": 0.2, "train.seed": 1, "run_dir": "b", "data.mix": True})
    expected = {"optim.base_lr": [0.1, 0.2], "model.arch": ["x", None], "data.mix": [None, True]}
    assert differing_settings([first, second]) == expected


def test_mcnemar_counts_the_pictures_that_only_one_run_classifies_correctly(tmp_path):
    keys = [f"k{number}" for number in range(20)]
    # Of 20 pictures, the first run alone is right in 8, the second alone in 2.
    first = run(tmp_path / "a", {}, {key: 1 if number < 15 else 3 for number, key in enumerate(keys)})
    ranks = {key: 2 if number < 8 or number >= 17 else 1 for number, key in enumerate(keys)}
    second = run(tmp_path / "b", {}, ranks | {"another": 1})
    found = compare_predictions(first, second)
    assert (found.pictures, found.only_first, found.only_second) == (20, 8, 2)
    assert found.p_value == pytest.approx(0.109375)  # R: binom.test(8, 10)$p.value
    assert compare_predictions(second, first).p_value == found.p_value
    assert compare_predictions(first, first).p_value == 1


def test_runs_without_common_pictures_are_not_compared(tmp_path):
    first, second = run(tmp_path / "a", {}, {"x": 1}), run(tmp_path / "b", {}, {"y": 1})
    assert compare_predictions(first, second) is None
    assert compare_predictions(first, run(tmp_path / "c", {})) is None
