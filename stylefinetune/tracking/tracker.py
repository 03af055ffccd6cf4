"""Logs the progress of a run: console and train.log in Caffe's words, metrics.jsonl, progress bar, W&B, TensorBoard.

Only rank 0 logs; on the other ranks every method does nothing.
"""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from stylefinetune.config.cli import dump_config
from stylefinetune.config.schema import Config
from stylefinetune.distributed.world import World
from stylefinetune.errors import RankError
from stylefinetune.tracking.console import close_log, open_log
from stylefinetune.tracking.data_wait import DataWaitWarning
from stylefinetune.tracking.metrics import TestResult
from stylefinetune.tracking.metrics_file import AXES, MetricsFile
from stylefinetune.tracking.run_facts import RunFacts, RunResult, SavedCheckpoint
from stylefinetune.tracking.speed import describe_speed, measure_speed, peak_memory
from stylefinetune.tracking.step_times import StepClock
from stylefinetune.tracking.time_estimate import TimeEstimate

if TYPE_CHECKING:
    from stylefinetune.tracking.progress_bar import ProgressBar


class Dashboard(Protocol):
    """Shows the entries of metrics.jsonl elsewhere. Its failures never stop training."""

    def log(self, entry: dict[str, Any]) -> None:
        """Show an entry."""

    def commit(self) -> None:
        """Complete the iteration of the last entry."""

    def show_result(self, iteration: int, result: RunResult) -> None:
        """Show the last test, of an iteration whose values may follow."""

    def note_checkpoints(self, saved: Sequence[SavedCheckpoint]) -> None:
        """Note the checkpoints of the run, oldest first, before old ones are removed. Any thread may call it."""

    def finish(self, *, failed: bool) -> None:
        """End the run, which failed or not."""


class Tracker(contextlib.AbstractContextManager["Tracker"]):
    """A context manager that logs the progress of a run.

    The run starts or resumes from iteration `start`, and does not repeat the tests of the iterations `tested`.
    """

    def __init__(self, config: Config, facts: RunFacts, world: World, start: int, tested: list[int]) -> None:
        self._config, self._facts = config, facts
        self._is_main, self._device = world.is_main, world.device
        self._estimate = TimeEstimate(config, start)
        self._clock = StepClock()
        self._data_wait = DataWaitWarning(config.data)
        self._bar: ProgressBar | None = None
        self._dashboards: list[Dashboard] = []
        self.start(start)
        if not self._is_main:
            return
        run_dir = Path(config.run_dir)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RankError(f"run_dir {run_dir} can't be created: {error.strerror}; use another --run_dir") from error
        self._log = self._open_log(run_dir / "train.log", start)
        self._metrics = MetricsFile(run_dir / "metrics.jsonl", start, tested)
        if config.tracking.wandb != "disabled":
            self._dashboards.append(self._start_wandb(start))
        if config.tracking.tensorboard:
            self._dashboards.append(self._start_tensorboard())

    def _start_wandb(self, start: int) -> Dashboard:
        from stylefinetune.tracking.dashboards.wandb_run import WandbRun  # noqa: PLC0415 -- takes 0.5 s on the rank that logs only

        return WandbRun(self._config, self._facts, start, self._metrics.kept, self._log)

    def _start_tensorboard(self) -> Dashboard:
        try:
            from stylefinetune.tracking.dashboards.tensorboard_run import TensorBoardRun  # noqa: PLC0415 -- an extra
        except ImportError as error:
            raise RankError(
                f"tracking.tensorboard needs a package that is missing ({error}); "
                "pip install 'stylefinetune[tensorboard]'"
            ) from error
        config = self._config
        return TensorBoardRun(Path(config.run_dir), dump_config(config), self._facts, self._metrics.kept, self._log)

    def _open_log(self, path: Path, start: int) -> logging.Logger:
        if not sys.stderr.isatty():
            return open_log(path)
        from stylefinetune.tracking.progress_bar import BarHandler, ProgressBar  # noqa: PLC0415 -- for terminals only

        self._bar = ProgressBar(start, self._config.train.max_iter)
        return open_log(path, BarHandler(self._bar))

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Close the progress bar, the dashboards and the log; an exception marks the W&B run as failed."""
        if not self._is_main:
            return
        if self._bar:
            self._bar.stop()
        for dashboard in self._dashboards:
            dashboard.finish(failed=error is not None)
        close_log(self._log)

    def start(self, iteration: int) -> None:
        """Start the clock of the training loop."""
        self._clock.start(iteration)

    def log(self, line: str) -> None:
        """Log a line."""
        if self._is_main:
            self._log.info(line)

    def warn(self, line: str) -> None:
        """Log a warning."""
        if self._is_main:
            self._log.warning(line)

    def log_test_start(self, iteration: int) -> None:
        """Log that a test begins."""
        self._test_began = time.monotonic()
        self._details: dict[str, float] = {}
        if self._is_main:
            self._log.info("Iteration %d, Testing net (#0)", iteration)

    def add_details(self, values: dict[str, float]) -> None:
        """Add values of this test by name that `log_test` does not print."""
        self._details = values

    def log_result(self, iteration: int, summarize: Callable[[], RunResult]) -> None:
        """Show the last test of the run in the dashboards; call it before the iteration is complete."""
        if not self._dashboards:
            return
        try:
            result = summarize()
        except Exception as error:  # noqa: BLE001 -- the run has not been saved yet, and this is for looking at
            self._log.warning("The predictions of the last test can't be shown: %s", error)
            return
        for dashboard in self._dashboards:
            dashboard.show_result(iteration, result)

    def log_test(self, iteration: int, result: TestResult, further: Mapping[str, float]) -> None:
        """Log the result of a test, and further values of it by name."""
        seconds = time.monotonic() - self._test_began
        self._clock.add_test(seconds)
        self._estimate.add_test(seconds)
        if not self._is_main:
            return
        loss = _digits(result.loss)
        self._log.info("    Test net output #0: accuracy = %s", _digits(result.accuracy))
        self._log.info("    Test net output #1: loss = %s (* 1 = %s loss)", loss, loss)
        for number, (name, value) in enumerate(further.items(), start=2):
            self._log.info("    Test net output #%d: %s = %s", number, name, _digits(value))
        values = {"accuracy": result.accuracy, **dataclasses.asdict(result), **further, **self._details}
        self._log_metrics(iteration, "test", {name: value for name, value in values.items() if value is not None})

    def log_train(
        self,
        iteration: int,
        losses: list[float],
        scalars: dict[str, float],
        data_seconds: float,
        phases: dict[str, float],
    ) -> None:
        """Log an iteration.

        Args:
            iteration: counted from 0.
            losses: the losses up to it, oldest first.
            scalars: "lr", the rate of each parameter group, the norms by layer, and what else the engine reports.
            data_seconds: how long the loop has waited for pictures since the last displayed iteration.
            phases: milliseconds of its step by phase, as forward_ms.
        """
        times = self._clock.take(iteration + 1, data_seconds)
        if not self._is_main:
            return
        mean, loss = sum(losses) / len(losses), _digits(losses[-1])
        speed = f"{_digits(times.iterations / times.train)} iter/s, {_digits(times.train)}s/{times.iterations} iters"
        self._log.info("Iteration %d (%s), loss = %s", iteration, speed, _digits(mean))
        self._log.info("    Train net output #0: loss = %s (* 1 = %s loss)", loss, loss)
        self._log.info("Iteration %d, lr = %s", iteration, _digits(scalars["lr"]))
        pictures = times.iterations * self._config.pictures_per_iteration
        speed = measure_speed(pictures / times.train, self._facts) | {"peak_memory_bytes": peak_memory(self._device)}
        values = {"loss": mean, **scalars, **speed, "data_wait": times.data_wait}
        mean_seconds, remaining = self._clock.seconds_per_iteration, None
        if mean_seconds is not None:
            remaining = self._estimate.remaining(iteration + 1, mean_seconds)
            values["remaining_seconds"] = remaining.total_seconds()
        self._log.info(times.describe(pictures, phases, describe_speed(speed), str(remaining) if remaining else ""))
        self._log_metrics(iteration, "train", values | times.milliseconds | phases)
        warning = self._data_wait.check(times.data_wait)
        if warning:
            self._log.warning(warning)

    def log_checkpoint(self, iteration: int, pause: float) -> None:
        """Log that a checkpoint after `iteration` iterations is being written, for which training paused `pause` s."""
        self._clock.add_checkpoint(pause)
        self._estimate.add_pause(pause)
        if self._is_main:
            self._log.info("    Training paused %s s for the checkpoint", _digits(pause))
            self._log_metrics(iteration, "checkpoint", {"pause": pause})

    def note_checkpoints(self, saved: Sequence[SavedCheckpoint]) -> None:
        """Note the checkpoints of the run, oldest first, before old ones are removed. Any thread may call it."""
        for dashboard in self._dashboards:
            dashboard.note_checkpoints(saved)

    def sync(self) -> None:
        """Flush metrics.jsonl to the disk; call it before a checkpoint is written."""
        if self._is_main:
            self._metrics.sync()

    def commit(self) -> None:
        """Complete the iteration in the dashboards."""
        for dashboard in self._dashboards:
            dashboard.commit()

    def advance(self, iteration: int) -> None:
        """Complete `iteration`: send its metrics to W&B, move the progress bar, and log once how long the run takes."""
        self.commit()
        if self._is_main and self._bar:
            self._bar.advance_to(iteration + 1)
        if self._is_main and self._estimate.is_measured(iteration + 1):
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            line = self._estimate.measure(iteration + 1)
            if line:
                self._log.info(line)

    def _log_metrics(self, iteration: int, phase: str, values: dict[str, Any]) -> None:
        pictures = iteration * self._config.pictures_per_iteration
        axes = dict(zip(AXES, (round(pictures / max(self._facts.train_pictures, 1), 6), pictures), strict=True))
        entry = self._metrics.append(iteration, phase, axes | values)
        for dashboard in self._dashboards:
            dashboard.log(entry)


def _digits(value: float) -> str:
    """Format six significant digits, as a C++ stream prints a float."""
    return f"{value:.6g}"
