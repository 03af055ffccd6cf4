"""What a run tells: console and train.log in Caffe's words, metrics.jsonl, a progress bar, Weights & Biases.

Only the lead rank speaks; on the others every method does nothing.
"""

import contextlib
import dataclasses
import datetime as dt
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stylefinetune.config.schema import Config
from stylefinetune.distributed.world import World
from stylefinetune.errors import RankError
from stylefinetune.tracking.metrics import TestResult
from stylefinetune.tracking.wandb_run import WandbRun


class GlogFormatter(logging.Formatter):
    """Glog's line prefix: level, date, time, process, file and line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns such as `I0828 22:17:48.338963 11510 tracking.py:195] Optimization Done.`."""
        when = dt.datetime.fromtimestamp(record.created).astimezone()
        place = f"{record.filename}:{record.lineno}"
        return f"{record.levelname[0]}{when:%m%d %H:%M:%S.%f} {record.process} {place}] {record.getMessage()}"


class Tracker:
    """Tells a run's progress.

    Args:
        config: the run's.
        world: decides who speaks.
        start: iteration that the run goes on from; what metrics.jsonl holds from there on is cut, since it comes again.
        tested: iterations whose tests won't come again.
    """

    def __init__(self, config: Config, world: World, start: int, tested: list[int]) -> None:
        self._config = config
        self._lead = world.is_main
        self._wandb: WandbRun | None = None
        self.start(start)
        if not self._lead:
            return
        run_dir = Path(config.run_dir)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RankError(f"run_dir {run_dir} can't be made: {error.strerror}; choose another --run_dir") from error
        self._bar = _ProgressBar(start, config.train.max_iter) if sys.stderr.isatty() else None
        self._log = _open_log(run_dir / "train.log", self._bar)
        self._metrics = run_dir / "metrics.jsonl"
        told = _cut_metrics(self._metrics, start, tested)
        if config.tracking.wandb != "disabled":
            self._wandb = WandbRun(config, start, told, self._log)

    def start(self, iteration: int) -> None:
        """Starts the clock that speed is told by."""
        self._last = (iteration, time.monotonic())  # iterations done when speed was last told, and when
        self._aside = 0.0  # seconds since then that weren't training

    def log(self, line: str) -> None:
        """Logs a line that stands for itself."""
        if self._lead:
            self._log.info(line)

    def log_test_start(self, iteration: int) -> None:
        """Tells that a test begins."""
        self._began = time.monotonic()
        if self._lead:
            self._log.info("Iteration %d, Testing net (#0)", iteration)

    def log_test(self, iteration: int, result: TestResult) -> None:
        """Tells a test's result."""
        self._aside += time.monotonic() - self._began
        if not self._lead:
            return
        loss = _digits(result.loss)
        self._log.info("    Test net output #0: accuracy = %s", _digits(result.accuracy))
        self._log.info("    Test net output #1: loss = %s (* 1 = %s loss)", loss, loss)
        self._write(iteration, "test", {"accuracy": result.accuracy, **dataclasses.asdict(result)})

    def log_train(self, iteration: int, losses: list[float], rates: dict[str, float], waited: float) -> None:
        """Tells a displayed iteration.

        Args:
            iteration: the one just done, from 0.
            losses: of the last iterations, this one's last.
            rates: "lr" and each parameter group's.
            waited: seconds since the last display that were spent waiting for pictures.
        """
        (before, then), now = self._last, time.monotonic()
        seconds, count = max(now - then - self._aside, 1e-9), iteration + 1 - before
        self._last, self._aside = (iteration + 1, now), 0.0
        if not self._lead:
            return
        mean, loss = sum(losses) / len(losses), _digits(losses[-1])
        speed = f"{_digits(count / seconds)} iter/s, {_digits(seconds)}s/{count} iters"
        self._log.info("Iteration %d (%s), loss = %s", iteration, speed, _digits(mean))
        self._log.info("    Train net output #0: loss = %s (* 1 = %s loss)", loss, loss)
        self._log.info("Iteration %d, lr = %s", iteration, _digits(rates["lr"]))
        pictures = count * self._config.data.batch_size * self._config.train.iter_size
        values = {"loss": mean, **rates, "images_per_second": pictures / seconds, "data_wait": waited / seconds}
        self._write(iteration, "train", values)

    def log_checkpoint(self, iteration: int, pause: float) -> None:
        """Tells that a checkpoint of the first `iteration` iterations is on its way, for which training stood still."""
        self._aside += pause
        if self._lead:
            self._log.info("    Training paused %s s for it", _digits(pause))
            self._write(iteration, "checkpoint", {"pause": pause})

    def advance(self, iteration: int) -> None:
        """Closes `iteration`, of which nothing more will be told, and moves the progress bar past it."""
        if not self._lead:
            return
        if self._wandb:
            self._wandb.commit()
        if self._bar:
            self._bar.advance_to(iteration + 1)

    def close(self, *, failed: bool) -> None:
        """Closes the log, the bar and the W&B run."""
        if not self._lead:
            return
        if self._bar:
            self._bar.stop()
        if self._wandb:
            self._wandb.finish(failed=failed)
        for handler in list(self._log.handlers):
            self._log.removeHandler(handler)
            with contextlib.suppress(OSError):  # of a disk that is full, which has been told
                handler.close()

    def _write(self, iteration: int, phase: str, values: dict[str, Any]) -> None:
        entry = {"iteration": iteration, "phase": phase, **values, "time": round(time.time(), 3)}
        try:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                _sync(file)
        except OSError as error:
            raise _refused(self._metrics, error) from error
        if self._wandb:
            self._wandb.log(entry)


class _ProgressBar(Progress):
    """Iterations done, above which the log scrolls."""

    def __init__(self, start: int, max_iter: int) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self.add_task("iterations", total=max_iter, completed=start)
        self.start()

    def advance_to(self, done: int) -> None:
        self.update(self._task, completed=done)


class _BarHandler(logging.Handler):
    """Prints above the progress bar."""

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self._console = bar.console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class _LogFile(logging.FileHandler):
    """train.log; that it can't be written is for the user to hear once, not a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        error = sys.exception()
        if not isinstance(error, OSError):
            return super().handleError(record)
        raise _refused(Path(self.baseFilename), error) from error


def _open_log(path: Path, bar: Progress | None) -> logging.Logger:
    log = logging.getLogger("stylefinetune")
    log.setLevel(logging.INFO)
    log.propagate = False
    console = logging.StreamHandler(sys.stderr) if bar is None else _BarHandler(bar)
    for handler in (console, _LogFile(path, encoding="utf-8")):
        handler.setFormatter(GlogFormatter())
        log.addHandler(handler)
    return log


def _cut_metrics(path: Path, start: int, tested: list[int]) -> list[dict[str, Any]]:
    """Drops the lines of iterations that will be run again, and a last line that a kill cut short.

    Returns:
        What stays.
    """
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    try:
        entries = [json.loads(line) for line in lines]
        kept = [entry for entry in entries if _stays(entry, start, tested)]
    except (ValueError, TypeError, KeyError) as error:
        raise RankError(f"{path} holds a line that isn't the run's own ({error}); mend it, or move it away") from error
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in kept)
            _sync(file)
        beside.replace(path)
    except OSError as error:
        raise _refused(path, error) from error
    return kept


def _stays(entry: dict[str, Any], start: int, tested: list[int]) -> bool:
    """Says whether an entry won't come again; the checkpoint and the test of `start` come before its iteration."""
    iteration, phase = entry["iteration"], entry["phase"]
    done = {"checkpoint": [start], "test": tested}.get(phase, [])
    return iteration < start or iteration in done


def _sync(file: IO[str]) -> None:
    """Sees that it is on the disk: a checkpoint that survives a power cut must find what was told before it."""
    file.flush()
    os.fsync(file.fileno())


def _refused(path: Path, error: OSError) -> RankError:
    return RankError(f"{path} can't be written ({error.strerror}); make room, and the same command goes on")


def _digits(value: float) -> str:
    """Returns six significant digits, as C++ streams print a float."""
    return f"{value:.6g}"
