"""Logs a crawl to W&B if --wandb asks for it: rates, the outcomes over time, and a table of them at the end."""

import contextlib
import dataclasses
import importlib
import json
import re
import time
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from shards.config.recipe import Recipe
from shards.config.schema import AssembleConfig, suffix_of
from shards.errors import ShardsError, first_line
from shards.format.outcomes import STATUS_GROUPS, group_of
from shards.progress import print_line
from shards.storage.session import ShardSession
from shards.tracking.crawl_log import CrawlLog

if TYPE_CHECKING:
    from shards.tracking.wandb_run import WandbRun

_INTERVAL = 10.0  # seconds between two rows


class CrawlTracker:
    """Logs a crawl, of which a part may have been done by earlier processes."""

    def __init__(self, log: CrawlLog, run: "WandbRun") -> None:
        self._log = log
        self._run = run
        self._done: Counter[str] = Counter()
        self._total = 0
        self._statuses: Mapping[str, int] = {}  # of this process
        self._size = 0
        self._bytes: int = next((row["bytes"] for row in reversed(log.rows) if "bytes" in row), 0)
        self._last = (time.monotonic(), 0, 0)  # time, rows and bytes of this process, when the last row was logged
        self._names = {name: 0 for row in log.rows for name in row if name.startswith("outcomes/")}

    def begin(self, done: Mapping[str, int], total: int) -> None:
        """Begin with `done` rows of the list by status, of all `total` rows."""
        self._done, self._total = Counter(done), total
        self._last = (time.monotonic(), 0, 0)

    def update(self, statuses: Mapping[str, int], size: int) -> None:
        """Log the numbers of rows by status and the bytes of this process so far, if a row is due."""
        self._statuses, self._size = statuses, size
        if time.monotonic() - self._last[0] >= _INTERVAL:
            self._log_progress()

    def _log_progress(self) -> None:
        then, rows_then, size_then = self._last
        now, rows, size = time.monotonic(), sum(self._statuses.values()), self._size
        self._last = (now, rows, size)
        outcomes = self._done.copy()
        outcomes.update(self._statuses)
        row: dict[str, Any] = {"time": time.time(), "files": outcomes.total(), "bytes": self._bytes + size}
        row |= {"remaining": self._total - outcomes.total()}
        row |= {"files_per_second": (rows - rows_then) / (now - then)}
        row |= {"bytes_per_second": (size - size_then) / (now - then)}
        self._add(row | {f"outcomes/{status}": count for status, count in outcomes.items()})

    def finish(self, counts: Mapping[str, int]) -> None:
        """Log the numbers of rows by status of the complete DIR, unless they were logged before."""
        if sum(self._statuses.values()) > self._last[1]:
            self._log_progress()
        total = sum(counts.values())
        table = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        if total == 0 or (self._log.rows and self._log.rows[-1].get("statuses") == table):
            return
        groups = dict.fromkeys((group.key for group in STATUS_GROUPS), 0)
        for status, count in counts.items():
            groups[group_of(status).key] += count
        row: dict[str, Any] = {"time": time.time(), "files": total, "remaining": 0, "statuses": table}
        row |= {f"outcomes/{status}": count for status, count in table.items()}
        self._add(row | {f"link_rot/{group}": count / total for group, count in groups.items() if group != "pending"})

    def _add(self, row: dict[str, Any]) -> None:
        row = self._names | row  # W&B would show the last value of an outcome that no row has any more
        self._names |= {name: 0 for name in row if name.startswith("outcomes/")}
        self._log.append(row)
        self._run.send(len(self._log.rows) - 1, row)


@contextlib.contextmanager
def track_crawl(
    config: AssembleConfig, session: ShardSession, recipe: Recipe, console: Console
) -> Generator[CrawlTracker | None]:
    """Yield the tracker of a crawl; None without --wandb.

    The id of the run is in DIR, with which it is uploaded if DIR is a URL. Each partition has its own run.
    """
    if config.wandb == "disabled":
        yield None
        return
    from shards.tracking.wandb_run import RunName, WandbRun  # noqa: PLC0415 -- only here, since it is optional

    partition = config.block_partition
    suffix = suffix_of(partition)
    name = Path(session.name).name
    log = CrawlLog(session.root / f"crawl{suffix}.jsonl")
    run_name = RunName(
        state=session.root / f"blocks/wandb{suffix}.json",
        project=config.wandb_project,
        name=name + suffix,
        group=name if partition else None,
        folder=None if session.remote else session.root,  # the stage of a URL is removed
    )
    settings = _describe(config) | {"list_sha256": recipe.list_sha256, "classes": list(recipe.classes or ())}
    run = WandbRun(run_name, config.wandb, settings, log.rows, lambda line: print_line(console, line))
    failed = True
    try:
        yield CrawlTracker(log, run)
        failed = False
    finally:
        run.finish(failed=failed)


def check_wandb(config: AssembleConfig) -> None:
    """Check that W&B can be imported, if it is asked for.

    Raises:
        ShardsError: it can't.
    """
    if config.wandb == "disabled":
        return
    try:
        importlib.import_module("shards.tracking.wandb_run")
    except Exception as error:  # a broken package may raise anything; Python imports W&B's folder of runs as one, too
        raise ShardsError(
            f"--wandb {config.wandb} needs the package wandb, which can't be imported ({first_line(error)}); install "
            "it with: pip install --upgrade wandb"
        ) from error


def _describe(config: AssembleConfig) -> dict[str, Any]:
    """Return the settings as values of JSON, without passwords."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    del settings["proxy"]
    lists = [re.sub(r"//[^/@]*@", "//", each) for each in config.lists]
    return settings | {"list": lists[0] if len(lists) == 1 else lists}
