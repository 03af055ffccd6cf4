"""Writes a run's metrics for TensorBoard, to RUN/tensorboard. A failure never stops training.

metrics.jsonl is the reference. A kill loses what the writer has not written, so each start writes the whole history
again: TensorBoard drops what earlier files have, and those files are deleted.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from shards.format import first_line
from stylefinetune.tracking.metrics_file import AXES, PHASES
from stylefinetune.tracking.run_facts import RunFacts, RunResult, SavedCheckpoint

FOLDER = "tensorboard"


class TensorBoardRun:
    """The event file of a start. Its errors become one warning in `log`.

    `logged` has the entries of metrics.jsonl from earlier starts, and `settings` is the run's config.yaml.
    """

    def __init__(
        self, run_dir: Path, settings: str, facts: RunFacts, logged: Iterable[dict[str, Any]], log: logging.Logger
    ) -> None:
        self._log = log
        self._writer: SummaryWriter | None = None
        folder = run_dir / FOLDER
        try:
            earlier = list(folder.glob("events.out.tfevents.*"))
            self._writer = SummaryWriter(str(folder), purge_step=0)
            for path in earlier:
                path.unlink()
            self._add_text("settings", settings)
            self._add_text("facts", json.dumps(facts.as_dict(), indent=2))
        except Exception as error:  # noqa: BLE001 -- no error of TensorBoard stops training
            self._fail(error)
        for entry in logged:
            self.log(entry)

    def log(self, entry: dict[str, Any]) -> None:
        """Write the numbers of an entry of metrics.jsonl, at its iteration and time."""
        phase = entry["phase"]
        if self._writer is None or phase not in PHASES:
            return
        try:
            for name, value in entry.items():
                if name not in {"iteration", "phase", "time", *AXES} and isinstance(value, int | float):
                    self._writer.add_scalar(f"{phase}/{name}", value, entry["iteration"], entry.get("time"))
        except Exception as error:  # noqa: BLE001 -- see above
            self._fail(error)

    def commit(self) -> None:
        """Do nothing: TensorBoard takes values one by one."""

    def show_result(self, iteration: int, result: RunResult) -> None:
        """Do nothing: the page of `stylefinetune report` shows the same without a server."""

    def note_checkpoints(self, saved: Sequence[SavedCheckpoint]) -> None:
        """Do nothing: TensorBoard takes no files."""

    def finish(self, *, failed: bool) -> None:  # noqa: ARG002 -- as of WandbRun; TensorBoard has no place for it
        """Write what is left, and close the file."""
        try:
            if self._writer:
                self._writer.close()
        except Exception as error:  # noqa: BLE001 -- see above
            self._fail(error)

    def _add_text(self, name: str, text: str) -> None:
        assert self._writer
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), 0)  # a block of code

    def _fail(self, error: Exception) -> None:
        self._writer = None
        self._log.warning("TensorBoard failed (%s); continuing without it", first_line(error))
