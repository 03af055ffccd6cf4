"""Selects the committed rows that --retry requests again, and stores the selection until it is complete."""

import dataclasses
import datetime as dt
import json
from pathlib import Path

from shards.errors import ShardsError
from shards.files import publish_json, unpublish_file
from shards.format.outcomes import TRANSIENT_STATUSES, Status
from shards.storage.shard_dir import Block, read_part

_STATE_NAME = "blocks/retry{}.json"
_NOT_FAILED = {Status.KEPT, Status.DUPLICATE}


@dataclasses.dataclass(frozen=True)
class Retry:
    """The rows to request again."""

    statuses: frozenset[Status]  # statuses of the rows
    since: dt.datetime  # start of this retry; rows requested later are done

    def positions(self, root: Path, block: Block) -> list[int]:
        """Return the positions in a block of its committed rows that are to be requested again.

        Raises:
            ShardsError: the block's outcomes part can't be read.
        """
        part = read_part(root, block.outcomes_part)
        rows = enumerate(zip(part.column("status").to_pylist(), part.column("time").to_pylist(), strict=True))
        return [position for position, (status, time) in rows if status in self.statuses and time < self.since]


def parse_statuses(text: str) -> frozenset[Status]:
    """Parse the value of --retry: failed, passing, or statuses separated by commas.

    Raises:
        ShardsError: a status does not exist, or its rows can't be retried.
    """
    found: set[Status] = set()
    groups = {"failed": frozenset(Status) - _NOT_FAILED, "passing": TRANSIENT_STATUSES}
    known = {str(status): frozenset({status}) for status in Status if status is not Status.KEPT} | groups
    for name in text.split(","):
        if name.strip() not in known:
            raise ShardsError(
                f"--retry {name.strip()} is not a status that can be retried; give one or more of: {', '.join(known)}"
            )
        found |= known[name.strip()]
    return frozenset(found)


def begin_retry(root: Path, text: str | None, work: Path, suffix: str = "") -> Retry | None:
    """Begin a retry, or resume an unfinished one with the same statuses; without `text`, remove that one.

    The state file's name ends with `suffix`, which is unique for each partition.

    Raises:
        ShardsError: `text` is not valid.
    """
    path = root / _STATE_NAME.format(suffix)
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
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)  # outcomes.parquet stores milliseconds
        retry = Retry(statuses, now)
        publish_json(path, {"statuses": sorted(statuses), "since": retry.since.isoformat()}, work)
    return retry


def end_retry(root: Path, suffix: str = "") -> None:
    """Record that the retry is complete."""
    unpublish_file(root / _STATE_NAME.format(suffix))
