"""A run as Weights & Biases has it: one history through kills and resumes, and never a reason for training to stop.

metrics.jsonl is the record. W&B sends what is logged with a delay, and what waits when its process is killed is lost;
what comes again after a resume it would have twice, or drop. So each start asks how far W&B's history goes, and sends
what metrics.jsonl has beyond that; a row of an iteration is sent once, whole.
"""

import contextlib
import dataclasses
import json
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wandb
import yaml

from stylefinetune.config.cli import dump_config
from stylefinetune.config.schema import Config
from stylefinetune.tracking.wandb_offline import continue_offline, mark_synced

INIT_SECONDS = 10
FINISH_SECONDS = 10  # torchrun kills 30 s after a signal
PHASES = ("train", "test")  # what else metrics.jsonl holds is of the process that told it, not of the run


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who a run is at W&B for its whole life, kept in RUN/wandb.json.

    Attributes:
        id: the run's at W&B.
        online: W&B's server has it; what it lacks only a start online can tell, so none goes on offline.
    """

    id: str
    online: bool = False

    @classmethod
    def of(cls, run_dir: Path) -> "Identity":
        """Reads the run's, or makes it."""
        path = run_dir / "wandb.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            identity = cls(secrets.token_hex(4))
            identity.write(run_dir)
            return identity

    def write(self, run_dir: Path) -> None:
        """Keeps it."""
        beside = run_dir / "wandb.json.tmp"
        beside.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")
        beside.replace(run_dir / "wandb.json")


class WandbRun:
    """A Weights & Biases run, online or else offline, that may fail without the training noticing.

    Args:
        config: the run's.
        start: iteration that the run goes on from.
        told: metrics.jsonl as it stands then; W&B is sent what it lacks of it.
        log: hears what a user should know.
    """

    def __init__(self, config: Config, start: int, told: Iterable[dict[str, Any]], log: logging.Logger) -> None:
        self._max_iter = config.train.max_iter
        self._run_dir = Path(config.run_dir)
        self._log = log
        self._run: Any = None
        self._has_failed = False
        self._first = 0  # the first step that W&B's history lacks
        self._row: tuple[int, dict[str, Any]] | None = None  # an iteration, and what has been told of it so far
        try:
            self._begin(config)
        except Exception as error:  # noqa: BLE001 -- whatever W&B meets, the training goes on
            self._fail(error, "going on without it")
        for entry in told:
            self.log(entry)
        if self._row and self._row[0] < start:
            self.commit()

    def log(self, entry: dict[str, Any]) -> None:
        """Adds a line of metrics.jsonl to the row of its iteration.

        W&B takes one row for a step: a test and the training after it make one. It is sent by `commit`, by the next
        iteration's, or at once where nothing can follow.
        """
        iteration, phase = entry["iteration"], entry["phase"]
        if phase not in PHASES:
            return
        if self._row and self._row[0] != iteration:
            self.commit()
        row = self._row[1] if self._row else {}
        row |= {f"{phase}/{name}": value for name, value in entry.items() if name not in {"iteration", "phase", "time"}}
        row |= {"_timestamp": entry["time"]} if "time" in entry else {}
        self._row = (iteration, row)
        if iteration >= self._max_iter:
            self.commit()

    def commit(self) -> None:
        """Sends the row, which is whole now, unless W&B has it from before a resume."""
        if self._run and self._row and self._row[0] >= self._first:
            try:
                self._run.log(self._row[1], step=self._row[0], commit=True)
                self._first = self._row[0] + 1
            except Exception as error:  # noqa: BLE001 -- see above
                self._fail(error, "going on without it")
        self._row = None

    def finish(self, *, failed: bool) -> None:
        """Ends the run; waits a little for what is still to be sent. A row that isn't whole comes again."""
        if self._run:
            try:
                self._run.finish(exit_code=int(failed))
            except Exception as error:  # noqa: BLE001 -- see above
                self._fail(error, "the same command, given again, sends the rest")
        if self._has_failed:
            with contextlib.suppress(Exception):
                wandb.teardown()  # which W&B would do at exit, and show what it meets

    def _begin(self, config: Config) -> None:
        identity = Identity.of(self._run_dir)
        mode = self._mode(config.tracking.wandb)
        if mode == "online":
            try:
                self._run = _init(config, identity, mode)
            except Exception as error:  # noqa: BLE001 -- see above
                wandb.teardown()  # its service still holds the run's id
                if identity.online:
                    self._fail(error, "going on without it; the next start that reaches it sends what it misses")
                    return
                self._fail(error, "trying offline")
                mode = "offline"
            else:
                self._first = self._run.starting_step
                dataclasses.replace(identity, online=True).write(self._run_dir)
                mark_synced(self._run_dir, identity.id)
                self._log.info("Weights & Biases: %s", self._run.url)
                return
        if mode == "offline" and identity.online:
            self._log.warning(
                "Weights & Biases: its server has the first part of this run, and only a start online can send the "
                "rest; going on without it"
            )
            return
        if mode == "offline":
            self._first = continue_offline(self._run_dir, identity.id)
        self._run = _init(config, identity, mode)

    def _mode(self, asked: str) -> str:
        """Returns the mode to try; WANDB_MODE, or `wandb offline`, has its say in auto."""
        settings = wandb.Settings(silent=True)
        settled = wandb.setup(settings).settings.mode if asked == "auto" else asked
        if settled != "online" or wandb.login(prompt=False, verify=False):
            return settled
        self._log.info(
            "Weights & Biases: no API key, the run is kept offline (`wandb sync %s` can send it later)",
            self._run_dir / "wandb",
        )
        return "offline"

    def _fail(self, error: Exception, remedy: str) -> None:
        self._run, self._has_failed = None, True
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        self._log.warning("Weights & Biases failed (%s); %s", reason, remedy)


def _init(config: Config, identity: Identity, mode: str) -> Any:  # noqa: ANN401 -- wandb's Run, which its lazy module doesn't type
    return wandb.init(
        project=config.tracking.project,
        name=config.tracking.name or Path(config.run_dir).name,
        id=identity.id,
        resume="allow" if mode == "online" else None,
        config=yaml.safe_load(dump_config(config)),
        dir=config.run_dir,
        mode=mode,  # pyright: ignore[reportArgumentType] -- one of its literals
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    )
