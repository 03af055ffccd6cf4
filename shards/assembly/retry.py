"""--retry: which rows of the committed blocks are asked for again; it goes on, once begun, after a kill."""

import dataclasses
import datetime as dt
import json
from pathlib import Path

from shards.errors import ShardsError
from shards.files import publish_file, unpublish_file
from shards.format.outcomes import TRANSIENT_STATUSES, Status
from shards.storage.shard_dir import Block, read_part

_STATE_NAME = "blocks/retry{}.json"
_KEPT = {Status.KEPT, Status.DUPLICATE}  # whose picture came


@dataclasses.dataclass(frozen=True)
class Retry:
    """What is asked for again.

    Attributes:
        statuses: of the rows.
        since: when this retry began; rows that were asked for later are done.
    """

    statuses: frozenset[Status]
    since: dt.datetime

    def places(self, root: Path, block: Block) -> list[int]:
        """Returns which of a block's committed rows are to be asked for, by their place in it.

        Raises:
            ShardsError: the block's part of the ledger can't be read.
        """
        part = read_part(root, block.outcomes_part)
        lines = zip(part.column("status").to_pylist(), part.column("time").to_pylist(), strict=True)
        return [place for place, (status, time) in enumerate(lines) if status in self.statuses and time < self.since]


def parse_statuses(text: str) -> frozenset[Status]:
    """Reads what --retry was given: failed, passing, or names of statuses with commas between them.

    Raises:
        ShardsError: there is no such status, or its rows can't be retried.
    """
    found: set[Status] = set()
    groups = {"failed": frozenset(Status) - _KEPT, "passing": TRANSIENT_STATUSES}
    known = {str(status): frozenset({status}) for status in Status if status is not Status.KEPT} | groups
    for name in text.split(","):
        if name.strip() not in known:
            raise ShardsError(
                f"--retry {name.strip()}: there is no such outcome to retry; give one or more of: {', '.join(known)}"
            )
        found |= known[name.strip()]
    return frozenset(found)


def begin_retry(root: Path, text: str | None, work: Path, task: str = "") -> Retry | None:
    """Begins a retry, or goes on with the one that a kill stopped; without `text`, forgets that one.

    Args:
        root: DIR.
        text: what --retry was given, or None.
        work: a folder for temporary files, of DIR's file system.
        task: a name for the part of DIR that this process does, where it doesn't do all.

    Raises:
        ShardsError: `text` names no status.
    """
    path = root / _STATE_NAME.format(task)
    if text is None:
        unpublish_file(path)
        return None
    statuses = parse_statuses(text)
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        retry = Retry(frozenset(map(Status, state["statuses"])), dt.datetime.fromisoformat(state["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        retry = None
    if retry is None or retry.statuses != statuses:
        now = dt.datetime.now(dt.UTC)
        retry = Retry(statuses, now.replace(microsecond=now.microsecond // 1000 * 1000))  # as the ledger has times
        draft = work / "retry.json"
        draft.write_text(json.dumps({"statuses": sorted(statuses), "since": retry.since.isoformat()}), encoding="utf-8")
        publish_file(draft, path)
    return retry


def end_retry(root: Path, task: str = "") -> None:
    """Says that every row of the retry has been asked for."""
    unpublish_file(root / _STATE_NAME.format(task))
