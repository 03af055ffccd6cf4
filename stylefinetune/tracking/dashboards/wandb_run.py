"""Logs a run to Weights & Biases as one history across kills and resumes. A failure of W&B never stops training.

metrics.jsonl is the reference. W&B sends rows with a delay, and a kill loses the rows that it has not sent. After a
resume W&B would drop or duplicate repeated rows. Therefore each start asks W&B for the length of its history and sends
the rows of metrics.jsonl after it. The row of an iteration is sent once, when it is complete.

W&B's own variables apply where the config sets nothing: WANDB_PROJECT, WANDB_NAME, WANDB_RUN_ID, WANDB_DIR, WANDB_MODE,
and those that `wandb.init` reads itself, such as WANDB_ENTITY and WANDB_TAGS.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import wandb
import yaml

from shards.format import first_line
from stylefinetune.config.cli import dump_config
from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.tracking.dashboards.background import Background
from stylefinetune.tracking.dashboards.wandb_artifacts import ArtifactUploads
from stylefinetune.tracking.dashboards.wandb_media import draw_result, draw_table
from stylefinetune.tracking.dashboards.wandb_offline import continue_offline, mark_synced, stored_aliases
from stylefinetune.tracking.metrics_file import AXES, PHASES
from stylefinetune.tracking.run_facts import RunFacts, RunResult, SavedCheckpoint

INIT_SECONDS = 10
FINISH_SECONDS = 10  # torchrun kills 30 s after a signal
UPLOAD_SECONDS, UPLOAD_SPEED = 60, 10e6  # the end of a run waits for its checkpoints as long, and 1 s more each 10 MB
PROJECT = "stylefinetune"
TABLE = "final/predictions"
_MODES = {"dryrun": "offline", "run": "online", "shared": "online"}  # further values of WANDB_MODE
# W&B shows the last value of a metric as that of the run, except of these.
_SUMMARIES = {"test/accuracy": "max", "test/map": "max", "test/loss": "min"}


@dataclasses.dataclass(frozen=True)
class Identity:
    """The identity of a run at W&B, stored in RUN/wandb.json."""

    id: str
    online: bool = False  # the server has a part of the run; only an online start can find out which
    folder: str | None = None  # folder of W&B's files, from WANDB_DIR; None for the run's folder

    @classmethod
    def load_or_create(cls, run_dir: Path, environment: wandb.Settings) -> "Identity":
        """Read the identity of the run, or create it from WANDB_RUN_ID and WANDB_DIR."""
        path = run_dir / "wandb.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            folder = os.environ.get("WANDB_DIR")
            identity = cls(
                environment.run_id or secrets.token_hex(4), folder=str(Path(folder).absolute()) if folder else None
            )
            identity.write(run_dir)
            return identity

    def write(self, run_dir: Path) -> None:
        """Write wandb.json."""
        temporary = run_dir / "wandb.json.tmp"
        temporary.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")
        temporary.replace(run_dir / "wandb.json")


class WandbRun:
    """A Weights & Biases run, online if possible, else offline. Its errors become warnings in `log`.

    The run starts or resumes from iteration `start`. `logged` has the entries of metrics.jsonl from earlier starts.
    """

    def __init__(
        self, config: Config, facts: RunFacts, start: int, logged: Iterable[dict[str, Any]], log: logging.Logger
    ) -> None:
        self._max_iter = config.train.max_iter
        self._longest_wait = config.train.stall_seconds if facts.ranks > 1 else math.inf  # the other ranks wait too
        self._run_dir = Path(config.run_dir)
        self._log = log
        self._run: Any = None
        self._has_failed = False
        self._next_step = 0  # the first step that W&B's history lacks
        self._row: tuple[int, dict[str, Any]] | None = None  # an iteration and its values so far
        self._background = Background(self._warn)
        self._uploads: ArtifactUploads | None = None
        self._end = contextlib.ExitStack()
        try:
            self._begin(config, facts)
        except Exception as error:  # noqa: BLE001 -- no error of W&B stops training
            self._fail(error, "continuing without it")
        if config.tracking.artifacts != "none":
            self._begin_uploads(config, facts, start)
        for entry in logged:
            self.log(entry)
        if self._row and self._row[0] < start:
            self.commit()

    def log(self, entry: dict[str, Any]) -> None:
        """Add an entry of metrics.jsonl to the row of its iteration.

        W&B accepts one row per step, so a test and the training iteration after it share a row. `commit` sends the row;
        so does an entry of another iteration, and the last entry of the run.
        """
        iteration, phase = entry["iteration"], entry["phase"]
        if phase not in PHASES:
            return
        if self._row and self._row[0] != iteration:
            self.commit()
        row = self._row[1] if self._row else {}
        row |= {name: entry[name] for name in AXES if name in entry}
        values = {name: value for name, value in entry.items() if name not in {"iteration", "phase", "time", *AXES}}
        row |= {f"{phase}/{name}": value for name, value in values.items()}
        row |= {"_timestamp": entry["time"]} if "time" in entry else {}
        self._row = (iteration, row)
        if iteration >= self._max_iter:
            self.commit()

    def show_result(self, iteration: int, result: RunResult) -> None:
        """Add the confusion matrix, the calibration and the tables of pictures to the row of an iteration."""
        if not self._run or iteration < self._next_step:
            return
        if self._row and self._row[0] != iteration:
            self.commit()
        try:
            media = draw_result(result)
        except Exception as error:  # noqa: BLE001 -- see above
            self._log.warning("Weights & Biases can't show the predictions of the last test: %s", error)
            return
        self._row = (iteration, (self._row[1] if self._row else {}) | media)
        run = self._run
        self._background.submit(lambda: run.summary.update({TABLE: draw_table(result)}))

    def note_checkpoints(self, saved: Sequence[SavedCheckpoint]) -> None:
        """Send the checkpoints that tracking.artifacts asks for, in a thread."""
        try:
            if self._run and self._uploads:
                self._uploads.note_checkpoints(saved)
        except Exception as error:  # noqa: BLE001 -- see above
            self._warn(error)

    def commit(self) -> None:
        """Send the complete row, unless W&B has it from before a resume."""
        if self._run and self._row and self._row[0] >= self._next_step:
            try:
                self._run.log(self._row[1], step=self._row[0], commit=True)
                self._next_step = self._row[0] + 1
            except Exception as error:  # noqa: BLE001 -- see above
                self._fail(error, "continuing without it")
        self._row = None

    def finish(self, *, failed: bool) -> None:
        """End the run and wait up to FINISH_SECONDS for unsent rows. A resume logs an incomplete row again.

        The artifacts of a run that has not failed are waited for first.
        """
        if self._run:
            try:
                if not failed:
                    self._finish_uploads()
                self._background.abandon()
                self._run.finish(exit_code=int(failed))
            except Exception as error:  # noqa: BLE001 -- see above
                self._fail(error, "run the same command again to send the rest")
        self._end.close()
        if self._has_failed:
            with contextlib.suppress(Exception):
                wandb.teardown()  # W&B would do it at exit and print its errors

    def _begin(self, config: Config, facts: RunFacts) -> None:
        environment = wandb.setup(wandb.Settings(silent=True)).settings
        identity = Identity.load_or_create(self._run_dir, environment)
        if environment.run_id and environment.run_id != identity.id:
            message = "Weights & Biases: WANDB_RUN_ID is %s; this run resumes and keeps its id %s"
            self._log.warning(message, environment.run_id, identity.id)
        folder = Path(identity.folder or self._run_dir)
        folder.mkdir(parents=True, exist_ok=True)  # else W&B would use a temporary folder
        self._folder = folder
        if "WANDB_DATA_DIR" not in os.environ:
            os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")  # of unsent files; W&B's default is the home folder
            self._end.callback(os.environ.pop, "WANDB_DATA_DIR", None)
        start = functools.partial(_init, config, facts, identity, environment)
        match self._mode(config.tracking.wandb, environment, folder):
            case "online":
                self._begin_online(start, identity)
            case "offline":
                self._begin_offline(start, identity)
            case other:
                self._run = start(other)

    def _begin_online(self, start: Callable[[str], Any], identity: Identity) -> None:
        try:
            self._run = start("online")
        except Exception as error:  # noqa: BLE001 -- see above
            wandb.teardown()  # its service still holds the run's id
            if identity.online:
                self._fail(
                    error, "continuing without it; the next start that reaches the server sends the missing rows"
                )
            else:
                self._fail(error, "trying offline")
                self._begin_offline(start, identity)
            return
        self._next_step = self._run.starting_step
        dataclasses.replace(identity, online=True).write(self._run_dir)
        mark_synced(self._folder, identity.id)
        self._log.info("Weights & Biases: %s", self._run.url)

    def _begin_offline(self, start: Callable[[str], Any], identity: Identity) -> None:
        if identity.online:
            self._log.warning(
                "Weights & Biases: the server has the first part of this run, and only an online start can send the "
                "rest; continuing without it"
            )
            return
        self._next_step = continue_offline(self._folder, identity.id)
        self._run = start("offline")

    def _begin_uploads(self, config: Config, facts: RunFacts, start: int) -> None:
        if not self._run:
            return
        try:
            stored = stored_aliases(self._folder, self._run.id)
            self._uploads = ArtifactUploads(self._run, config, facts, stored, self._log, self._background)
            line = self._uploads.describe(start)
            if line:
                self._log.info(line)
            self._uploads.add_index()
        except Exception as error:  # noqa: BLE001 -- see above
            self._warn(error)

    def _finish_uploads(self) -> None:
        """Wait for the artifacts of the run."""
        seconds, rest = float(FINISH_SECONDS), ""
        if self._uploads:
            self._uploads.finish()
            seconds, rest = UPLOAD_SECONDS + self._uploads.waiting_bytes / UPLOAD_SPEED, "; run the same command again"
            seconds = min(seconds, self._longest_wait)
            if self._uploads.waiting_bytes:
                self._log.info("Weights & Biases: waiting up to %.0f s for the checkpoints", seconds)
        if not self._background.wait(seconds):
            self._log.warning("Weights & Biases: the artifacts are not sent after %.0f s%s", seconds, rest)

    def _mode(self, configured: str, environment: wandb.Settings, folder: Path) -> str:
        """Return the mode to try; in auto, WANDB_MODE or `wandb offline` decides."""
        mode = _MODES.get(environment.mode, environment.mode) if configured == "auto" else configured
        if mode != "online" or wandb.login(prompt=False, verify=False):
            return mode
        message = "Weights & Biases: no API key, logging offline (`wandb sync %s` sends the run later)"
        self._log.info(message, folder / "wandb")
        return "offline"

    def _fail(self, error: Exception, remedy: str) -> None:
        self._run, self._has_failed = None, True
        self._log.warning("Weights & Biases failed (%s); %s", first_line(error), remedy)

    def _warn(self, error: Exception) -> None:
        """Log that an artifact could not be sent."""
        self._log.warning("Weights & Biases: %s", first_line(error))


def _init(config: Config, facts: RunFacts, identity: Identity, environment: wandb.Settings, mode: str) -> Any:  # noqa: ANN401 -- wandb's Run, which its lazy module doesn't type
    settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS)
    settings.finish_timeout_raises = True
    project, name = _name_of(config.tracking, environment, config.run_dir)
    run: Any = wandb.init(
        project=project,
        name=name,
        id=identity.id,
        resume="allow" if mode == "online" else None,
        config=yaml.safe_load(dump_config(config)) | {"run": facts.as_dict()},
        dir=identity.folder or config.run_dir,
        mode=mode,  # pyright: ignore[reportArgumentType] -- one of its literals
        settings=settings,
    )
    for metric, summary in _SUMMARIES.items():
        run.define_metric(metric, summary=summary)
    return run


def _name_of(tracking: TrackingConfig, environment: wandb.Settings, run_dir: str) -> tuple[str, str]:
    """Return the project and the name of a run; a setting of the config replaces W&B's variable."""
    project = tracking.project or environment.project or PROJECT
    return project, tracking.name or environment.run_name or Path(run_dir).name
