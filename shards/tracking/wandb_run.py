"""A crawl's run at Weights & Biases: one history across kills and resumes. A failure of W&B never stops the crawl.

The rows in DIR are the reference. A start that reaches the server sends the rows that it lacks. A start without it
writes all rows to a new offline folder, which replaces the earlier ones, since a kill may have cut those off. If one of
them has been synced, it writes only new rows, since `wandb sync` appends.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import wandb

from shards.errors import first_line

INIT_SECONDS = 10
FINISH_SECONDS = 10
PROJECT = "stylefinetune"
_MODES = {"dryrun": "offline", "run": "online", "shared": "online"}  # further values of WANDB_MODE
_STYLE = """<!doctype html><meta charset="utf-8"><style>
body { font: 14px system-ui, sans-serif } table { border-collapse: collapse } th { text-align: left; font-weight: 600 }
td, th { padding: 3px 8px; border: 1px solid #ccc } td + td { text-align: right }
</style>"""


@dataclasses.dataclass(frozen=True)
class RunName:
    """What a run is called, and where its files are."""

    state: Path  # file with the run's id, in DIR
    project: str | None  # None for WANDB_PROJECT, or the default
    name: str  # unless WANDB_NAME is set
    group: str | None  # of the runs of all partitions
    folder: Path | None  # unless WANDB_DIR is set; None for the working folder


class WandbRun:
    """A run, online if possible, else offline; `rows` are those that were logged before, by step."""

    def __init__(
        self,
        name: RunName,
        mode: str,
        settings: Mapping[str, Any],
        rows: Sequence[dict[str, Any]],
        print_line: Callable[[str], None],
    ) -> None:
        self._print_line = print_line
        self._run: Any = None
        self._has_failed = False
        self._next_step = 0  # the first step that W&B lacks
        try:
            self._begin(name, mode, settings, len(rows))
        except Exception as error:  # noqa: BLE001 -- no error of W&B stops the crawl
            self._fail(error, "continuing without it; the next start sends the missing rows")
        for step, row in enumerate(rows):
            self.send(step, row)

    def send(self, step: int, row: Mapping[str, Any]) -> None:
        """Send a row, unless W&B has it."""
        if not self._run or step < self._next_step:
            return
        values = {"_timestamp" if name == "time" else name: value for name, value in row.items()}
        try:
            if "statuses" in values:
                values["statuses"] = wandb.Html(_draw_table(values["statuses"]), inject=False)
            self._run.log(values, step=step, commit=True)
            self._next_step = step + 1
        except Exception as error:  # noqa: BLE001 -- see above
            self._fail(error, "continuing without it; the next start sends the missing rows")

    def finish(self, *, failed: bool) -> None:
        """End the run, and wait up to FINISH_SECONDS for rows that are not sent."""
        if self._run:
            try:
                self._run.finish(exit_code=int(failed))
            except Exception as error:  # noqa: BLE001 -- see above
                self._fail(error, "run the same command again to send the rest")
        if self._has_failed:
            with contextlib.suppress(Exception):
                wandb.teardown()  # W&B would do it at exit and print its errors

    def _begin(self, name: RunName, mode: str, settings: Mapping[str, Any], logged: int) -> None:
        environment = wandb.setup(wandb.Settings(silent=True)).settings
        state = _RunState.load_or_create(name.state)
        folder = Path(os.environ.get("WANDB_DIR") or name.folder or ".").absolute()
        folder.mkdir(parents=True, exist_ok=True)  # else W&B would use a temporary folder
        mode = self._choose_mode(mode, environment, folder)
        if mode == "disabled":
            return
        if mode == "online":
            try:
                self._begin_online(name, state, settings, environment, folder)
            except Exception as error:
                wandb.teardown()  # its service still holds the run's id
                if state.online:
                    raise
                self._fail(error, "trying offline")
            else:
                return
        elif state.online:
            self._print_line(
                "warning: Weights & Biases: the server has the first part of this run, and only an online start can "
                "send the rest; continuing without it"
            )
            return
        self._next_step = _continue_offline(folder, state.id, logged)
        self._run = _init(name, state.id, settings, environment, folder, "offline")

    def _begin_online(
        self, name: RunName, state: "_RunState", settings: Mapping[str, Any], environment: wandb.Settings, folder: Path
    ) -> None:
        self._run = _init(name, state.id, settings, environment, folder, "online")
        self._next_step = self._run.starting_step
        dataclasses.replace(state, online=True).write(name.state)
        for file in _offline_files(folder, state.id):
            _marker(file).touch()  # the server gets their rows from this start
        self._print_line(f"Weights & Biases: {self._run.url}")

    def _choose_mode(self, configured: str, environment: wandb.Settings, folder: Path) -> str:
        """Return the mode to try; in auto, WANDB_MODE or `wandb offline` decides."""
        mode = _MODES.get(environment.mode, environment.mode) if configured == "auto" else configured
        if mode != "online" or wandb.login(prompt=False, verify=False):
            return mode
        self._print_line(
            f"Weights & Biases: no API key, logging offline (`wandb sync {folder / 'wandb'}` sends the run later)"
        )
        return "offline"

    def _fail(self, error: Exception, remedy: str) -> None:
        self._run, self._has_failed = None, True
        self._print_line(f"warning: Weights & Biases failed ({first_line(error)}); {remedy}")


@dataclasses.dataclass(frozen=True)
class _RunState:
    """What DIR has of a run."""

    id: str
    online: bool = False  # the server has a part of the run; only an online start can find out which

    @classmethod
    def load_or_create(cls, path: Path) -> "_RunState":
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            state = cls(secrets.token_hex(4))
            state.write(path)
            return state

    def write(self, path: Path) -> None:
        draft = path.with_name(f"{path.stem}.tmp.json")  # `verify` accepts JSON files
        draft.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")
        draft.replace(path)


def _init(
    name: RunName, run_id: str, config: Mapping[str, Any], environment: wandb.Settings, folder: Path, mode: str
) -> Any:  # noqa: ANN401 -- wandb's Run, which its lazy module doesn't type
    settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS)
    settings.finish_timeout_raises = True
    # Facts about the machine and the packages would take longer to collect than all rows of an hour.
    settings.x_disable_stats = settings.x_disable_machine_info = settings.disable_git = True
    settings.x_save_requirements = False
    return wandb.init(
        project=name.project or environment.project or PROJECT,
        name=environment.run_name or name.name,
        group=name.group,
        job_type="crawl",
        id=run_id,
        resume="allow" if mode == "online" else None,
        config=dict(config),
        dir=str(folder),
        mode=mode,  # pyright: ignore[reportArgumentType] -- one of its literals
        settings=settings,
    )


def _continue_offline(folder: Path, run_id: str, logged: int) -> int:
    """Return the first step for a new offline folder, of `logged` rows, and remove the folders that it replaces."""
    files = _offline_files(folder, run_id)
    if any(_marker(file).exists() for file in files):
        return logged
    for file in files:
        shutil.rmtree(file.parent)
    return 0


def _offline_files(folder: Path, run_id: str) -> list[Path]:
    return sorted(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))


def _marker(file: Path) -> Path:
    """Return the file with which `wandb sync` marks an offline folder that it has sent, and then skips."""
    return file.with_name(f"{file.name}.synced")


def _draw_table(statuses: Mapping[str, int]) -> str:
    """Return the numbers of rows by status as a page of HTML.

    A table of W&B would be an artifact: to log one, W&B waits for its server.
    """
    total = sum(statuses.values())
    rows = (
        f"<tr><td>{escape(status)}<td>{count:,}<td>{100 * count / total:.1f} %" for status, count in statuses.items()
    )
    return f"{_STYLE}<table><tr><th>status<th>count<th>share</tr>{''.join(rows)}</table>"
