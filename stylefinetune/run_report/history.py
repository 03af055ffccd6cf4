"""Reads what a run has written: its settings, metrics, evaluation and the outcomes of its data."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from shards.format.outcomes import OUTCOMES_FILE, count_outcomes
from stylefinetune.checkpoint.folders import find_checkpoint_folder
from stylefinetune.config.config_file import read_config_file
from stylefinetune.config.deepspeed import flatten
from stylefinetune.errors import UserError

EVALUATION = "evaluation"  # RUN/evaluation, which `evaluate RUN --out RUN/evaluation` writes


@dataclasses.dataclass(frozen=True)
class RunHistory:
    """What a run has written so far."""

    name: str
    folder: Path
    settings: dict[str, Any]  # by dotted key
    classes: list[str]  # names in label order
    entries: list[dict[str, Any]]  # of metrics.jsonl, in order
    evaluation: dict[str, Any] | None  # metrics.json of RUN/evaluation
    outcomes: dict[str, int]  # status -> number of URLs of its data; empty if there is no table of them

    def series(self, phase: str, value: str) -> list[tuple[int, float]]:
        """Return (iteration, value) of the entries of a phase, train or test, that have the value."""
        found = [entry for entry in self.entries if entry["phase"] == phase and value in entry]
        return [(entry["iteration"], entry[value]) for entry in found]

    @property
    def last_test(self) -> dict[str, Any] | None:
        """The entry of the last test."""
        return next((entry for entry in reversed(self.entries) if entry["phase"] == "test"), None)

    @property
    def best_test(self) -> dict[str, Any] | None:
        """The entry of the test with the highest accuracy."""
        tests = [entry for entry in self.entries if entry["phase"] == "test"]
        return max(tests, key=lambda entry: entry["accuracy"], default=None)

    def seconds(self) -> dict[str, float]:
        """Return the seconds by activity: training step, waiting for data, tests and checkpoints."""
        totals = {"step": 0.0, "data": 0.0, "test": 0.0, "checkpoint": 0.0}
        previous = 0
        for entry in self.entries:
            if entry["phase"] == "train" and "step_ms" in entry:
                iterations = max(entry["iteration"] + 1 - previous, 1)
                previous = entry["iteration"] + 1
                totals["step"] += entry["step_ms"] * iterations / 1000
                totals["data"] += entry["data_ms"] * iterations / 1000
                totals["test"] += entry["test_ms"] / 1000
                totals["checkpoint"] += entry["checkpoint_ms"] / 1000
        return totals


def read_history(run_dir: Path) -> RunHistory:
    """Read the folder of a run, which may be training.

    Raises:
        UserError: it is no run's folder, or a file can't be read.
    """
    metrics = run_dir / "metrics.jsonl"
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{run_dir} is not a run's folder: metrics.jsonl can't be read ({error.strerror})") from error
    checkpoint = find_checkpoint_folder(run_dir)
    settings = dict(flatten(read_config_file(checkpoint / "config.yaml"))) if checkpoint else {}
    return RunHistory(
        name=run_dir.resolve().name,
        folder=run_dir,
        settings=settings,
        classes=_read_json(checkpoint / "progress.json")["classes"] if checkpoint else [],
        entries=[entry for line in lines if (entry := _parse(line))],
        evaluation=_read_json(run_dir / EVALUATION / "metrics.json"),
        outcomes=count_outcomes(Path(settings.get("data.shards", "")) / OUTCOMES_FILE),
    )


def _parse(line: str) -> dict[str, Any] | None:
    """Return the entry of a line; None for the last line of a run that is writing it, or was killed."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _read_json(path: Path) -> Any:  # noqa: ANN401 -- any value of JSON
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); remove it, and evaluate the run again") from error
