"""What a run tells: console and train.log in Caffe's words, metrics.jsonl, a progress bar, Weights & Biases.

Only the lead rank speaks; on the others every method does nothing.
"""

import dataclasses
import datetime as dt
import json
import logging
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import wandb
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stylefinetune.config import Config
from stylefinetune.config_io import dump
from stylefinetune.errors import RankError
from stylefinetune.metrics import TestResult
from stylefinetune.world import World

WANDB_INIT_SECONDS = 10


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
        self._lead = world.is_lead
        self._wandb: _WandbRun | None = None
        self.begin(start)
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
        _cut_metrics(self._metrics, start, tested)
        if config.tracking.wandb != "disabled":
            self._wandb = _WandbRun(config, self._log)

    def begin(self, iteration: int) -> None:
        """Starts the clock that speed is told by."""
        self._last = (iteration, time.monotonic())  # iterations done when speed was last told, and when
        self._aside = 0.0  # seconds since then that weren't training

    def say(self, line: str) -> None:
        """Logs a line that stands for itself."""
        if self._lead:
            self._log.info(line)

    def testing(self, iteration: int) -> None:
        """Tells that a test begins."""
        self._began = time.monotonic()
        if self._lead:
            self._log.info("Iteration %d, Testing net (#0)", iteration)

    def tested(self, iteration: int, result: TestResult) -> None:
        """Tells a test's result."""
        self._aside += time.monotonic() - self._began
        if not self._lead:
            return
        loss = _digits(result.loss)
        self._log.info("    Test net output #0: accuracy = %s", _digits(result.accuracy))
        self._log.info("    Test net output #1: loss = %s (* 1 = %s loss)", loss, loss)
        self._write(iteration, "test", {"accuracy": result.accuracy, **dataclasses.asdict(result)})

    def trained(self, iteration: int, losses: list[float], rates: dict[str, float], waited: float) -> None:
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

    def advance(self, iteration: int) -> None:
        """Moves the progress bar past `iteration`."""
        if self._lead and self._bar:
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
            handler.close()

    def _write(self, iteration: int, phase: str, values: dict[str, Any]) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, "phase": phase, **values}) + "\n")
        if self._wandb:
            self._wandb.log({f"{phase}/{name}": value for name, value in values.items()}, iteration)


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


class _WandbRun:
    """A Weights & Biases run, online or else offline, that may fail without the training noticing."""

    def __init__(self, config: Config, log: logging.Logger) -> None:
        self._log = log
        self._run: Any = None
        for mode in self._modes(config.tracking.wandb):
            try:
                self._run = _init_wandb(config, mode)
            except Exception as error:  # noqa: BLE001 -- whatever W&B meets, the training goes on
                self._warn(error, "trying offline" if mode == "online" else "going on without it")
                wandb.teardown()  # its service still holds the run's id
            else:
                return

    def _modes(self, asked: str) -> list[str]:
        """Returns the modes to try, in order; WANDB_MODE, or `wandb offline`, has its say in auto."""
        settled = wandb.setup().settings.mode if asked == "auto" else asked
        if settled != "online":
            return [settled]
        if wandb.login(prompt=False, verify=False):
            return ["online", "offline"]
        self._log.info("Weights & Biases: no API key, the run is kept offline (`wandb sync` can send it later)")
        return ["offline"]

    def log(self, values: dict[str, Any], step: int) -> None:
        if self._run:
            try:
                self._run.log(values, step=step)
            except Exception as error:  # noqa: BLE001 -- see above
                self._run = None
                self._warn(error, "going on without it")

    def finish(self, *, failed: bool) -> None:
        if self._run:
            try:
                self._run.finish(exit_code=int(failed))
            except Exception as error:  # noqa: BLE001 -- see above
                self._warn(error, "its last lines may be missing there")

    def _warn(self, error: Exception, remedy: str) -> None:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        self._log.warning("Weights & Biases failed (%s); %s", reason, remedy)


def _init_wandb(config: Config, mode: str) -> Any:  # noqa: ANN401 -- wandb's Run, which its lazy module doesn't type
    run_dir = Path(config.run_dir)
    id_file = run_dir / "wandb_id"  # one id for the life of the run, so that a resumed run is one history
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4), encoding="ascii")
    return wandb.init(
        project=config.tracking.project,
        name=config.tracking.name or run_dir.name,
        id=id_file.read_text(encoding="ascii").strip(),
        resume="allow" if mode == "online" else None,
        config=yaml.safe_load(dump(config)),
        dir=str(run_dir),
        mode=mode,  # pyright: ignore[reportArgumentType] -- one of its literals
        settings=wandb.Settings(silent=True, console="off", init_timeout=WANDB_INIT_SECONDS),
    )


def _open_log(path: Path, bar: Progress | None) -> logging.Logger:
    log = logging.getLogger("stylefinetune")
    log.setLevel(logging.INFO)
    log.propagate = False
    console = logging.StreamHandler(sys.stderr) if bar is None else _BarHandler(bar)
    for handler in (console, logging.FileHandler(path, encoding="utf-8")):
        handler.setFormatter(GlogFormatter())
        log.addHandler(handler)
    return log


def _cut_metrics(path: Path, start: int, tested: list[int]) -> None:
    """Drops the lines of iterations that will be run again, and a last line that a kill cut short."""
    if not path.exists():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]

    def stays(entry: dict[str, Any]) -> bool:
        return entry["iteration"] < start or (entry["phase"] == "test" and entry["iteration"] in tested)

    beside = path.with_suffix(".tmp")
    beside.write_text("".join(line for line in lines if stays(json.loads(line))), encoding="utf-8")
    beside.replace(path)


def _digits(value: float) -> str:
    """Returns six significant digits, as C++ streams print a float."""
    return f"{value:.6g}"
