"""Partitions a DIR's blocks among the tasks of several machines, and merges their results."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console

from shards.assembly.finalize import finalize
from shards.config.schema import Partition
from shards.files import publish_json, unpublish_file
from shards.storage.journal import recover_blocks
from shards.storage.session import open_existing_session
from shards.storage.shard_dir import Block, ShardDir, read_part

_TASKS_NAME = "blocks/tasks.json"


def register_partition(root: Path, partition: Partition | None, work: Path) -> None:
    """Store the number of partitions in DIR, so that `merge` can name those with missing blocks."""
    if partition is None:
        unpublish_file(root / _TASKS_NAME)
    else:
        publish_json(root / _TASKS_NAME, {"partitions": partition.count}, work)


def blocks_of_partition(shard_dir: ShardDir, partition: Partition | None) -> list[Block]:
    """Return a partition's blocks in order: every n-th of all blocks; without a partition, all."""
    blocks = shard_dir.blocks()
    return blocks[partition.index :: partition.count] if partition else blocks


def count_partition(shard_dir: ShardDir, blocks: Iterable[Block]) -> collections.Counter[str]:
    """Return the number of rows of committed blocks by status, before placeholders and duplicates are dropped."""
    counts: collections.Counter[str] = collections.Counter()
    for block in blocks:
        counts.update(read_part(shard_dir.root, block.outcomes_part, ["status"]).column("status").to_pylist())
    return counts


@dataclasses.dataclass(frozen=True)
class MergeResult:
    """The result of a merge."""

    counts: Mapping[str, int] | None  # number of rows by status; None if blocks are missing
    blocks: int  # number of all blocks
    missing: Mapping[int, int]  # number of missing blocks by partition
    partitions: int  # number of partitions; 1 if DIR was not partitioned


def merge_partitions(out: Path, stage: Path | None = None, console: Console | None = None) -> MergeResult:
    """Write index.parquet and outcomes.parquet if no block is missing; repeating it gives the same result.

    If blocks are missing, nothing is written: placeholders are recognized by their number in all outcomes, so an
    incomplete index could contain pictures that the complete one does not. `console` gets the progress.

    Raises:
        ShardsError: there are no shards, a task is still running, or a file is damaged.
    """
    with open_existing_session(out, stage) as (shard_dir, session):
        blocks = shard_dir.blocks()
        recover_blocks(session.root, blocks)
        count = _read_count(session.root)
        missing = collections.Counter(
            number % count for number, block in enumerate(blocks) if not shard_dir.is_committed(block)
        )
        if missing:
            return MergeResult(None, len(blocks), dict(sorted(missing.items())), count)
        counts = finalize(shard_dir, session.work, session.remote, console)
        unpublish_file(session.root / _TASKS_NAME)  # DIR is now the same as without partitions
        if session.remote:
            session.remote.put_state_files()
        return MergeResult(counts, len(blocks), {}, count)


def _read_count(root: Path) -> int:
    try:
        count = json.loads((root / _TASKS_NAME).read_text(encoding="utf-8"))["partitions"]
    except (OSError, ValueError, KeyError, TypeError):  # the number is only needed to name partitions
        return 1
    return count if isinstance(count, int) and count > 0 else 1
