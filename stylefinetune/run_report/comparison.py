"""Compares runs: their settings, and their predictions for the same pictures."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stylefinetune.run_report.history import EVALUATION, RunHistory

_PLACES = {"run_dir", "resume", "tracking.name", "tracking.project"}  # differ between any two runs


def differing_settings(runs: Sequence[RunHistory]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ: key -> a value for each run, None if it has no such setting."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in _PLACES)
    rows = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


@dataclasses.dataclass(frozen=True)
class McNemar:
    """A comparison of two runs on the pictures that both have classified."""

    names: tuple[str, str]
    pictures: int
    only_first: int  # pictures that only the first run classifies correctly
    only_second: int
    p_value: float  # of the hypothesis that both are equally good


def compare_predictions(first: RunHistory, second: RunHistory) -> McNemar | None:
    """Return McNemar's exact test; None if a run is not evaluated, or they share no picture with one label.

    Source: McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions" (1947), with the
    binomial distribution in place of its approximation.
    """
    paths = [run.folder / EVALUATION / "predictions.parquet" for run in (first, second)]
    if not all(path.is_file() and "rank" in pq.read_schema(path).names for path in paths):
        return None
    left, right = (pq.read_table(path, columns=["key", "label", "rank"]) for path in paths)
    both: pa.Table = left.join(right, keys=["key", "label"], join_type="inner", right_suffix="_second")
    if not both.num_rows:
        return None
    right_first, right_second = (both[name].to_numpy() == 1 for name in ("rank", "rank_second"))
    only_first = int(np.sum(right_first & ~right_second))
    only_second = int(np.sum(right_second & ~right_first))
    return McNemar(
        names=(first.name, second.name),
        pictures=both.num_rows,
        only_first=only_first,
        only_second=only_second,
        p_value=_binomial_test(only_first, only_first + only_second),
    )


def _binomial_test(successes: int, count: int) -> float:
    """Return the two-sided p-value for a probability of 1/2."""
    fewer = min(successes, count - successes)
    tail = sum(math.comb(count, number) for number in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)  # exact integers until the division
