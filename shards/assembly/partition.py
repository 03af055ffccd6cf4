"""One DIR made by the tasks of several machines: whose each block is, which are missing, and the index once none is."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from shards.assembly.finalize import finalize
from shards.config.schema import Partition
from shards.files import publish_file, unpublish_file
from shards.storage.journal import recover_blocks
from shards.storage.session import reopen_session
from shards.storage.shard_dir import Block, ShardDir, read_part

_TASKS_NAME = "blocks/tasks.json"


def register_partition(root: Path, partition: Partition | None, work: Path) -> None:
    """Has DIR remember into how many partitions it was cut last, so that `merge` can name those that lack blocks.

    Args:
        root: DIR.
        partition: what this task does; None is all of DIR.
        work: a folder for temporary files, of DIR's file system.
    """
    if partition is None:
        unpublish_file(root / _TASKS_NAME)
        return
    draft = work / "tasks.json"
    draft.write_text(json.dumps({"partitions": partition.count}), encoding="utf-8")
    publish_file(draft, root / _TASKS_NAME)


def blocks_of_partition(shard_dir: ShardDir, partition: Partition | None) -> list[Block]:
    """Returns a partition's blocks, in order: every n-th of all; or all of them."""
    every = shard_dir.blocks()
    return every[partition.index :: partition.count] if partition else every


def count_partition(shard_dir: ShardDir, share: Iterable[Block]) -> collections.Counter[str]:
    """Returns how many rows of committed blocks came to what, before they are judged over the whole of DIR."""
    counts: collections.Counter[str] = collections.Counter()
    for block in share:
        counts.update(read_part(shard_dir.root, block.outcomes_part, ["status"]).column("status").to_pylist())
    return counts


@dataclasses.dataclass(frozen=True)
class MergeResult:
    """What a merge found.

    Attributes:
        counts: how many rows came to what; None where blocks are missing.
        blocks: how many DIR has when it is whole.
        missing: how many of them aren't there, by partition.
        partitions: into how many DIR was cut last; 1 where it wasn't.
    """

    counts: Mapping[str, int] | None
    blocks: int
    missing: Mapping[int, int]
    partitions: int


def merge_partitions(out: Path, stage: Path | None = None) -> MergeResult:
    """Writes index.parquet and outcomes.parquet if no block is missing; any number of times, with the same result.

    Where blocks are missing nothing is written: a placeholder is told by how often it stands in the whole ledger, so
    that an index of a part would hold pictures that the whole one doesn't.

    Args:
        out: DIR, or its URL.
        stage: folder to work in for a URL; see `opening`.

    Raises:
        ShardsError: there are no shards, some task is still at work, or a file is damaged.
    """
    with reopen_session(out, stage) as (shard_dir, place):
        every = shard_dir.blocks()
        recover_blocks(place.root, every)
        count = _read_count(place.root)
        missing = collections.Counter(
            place % count for place, block in enumerate(every) if not shard_dir.is_committed(block)
        )
        if missing:
            return MergeResult(None, len(every), dict(sorted(missing.items())), count)
        counts = finalize(shard_dir, place.work, place.storage)
        unpublish_file(place.root / _TASKS_NAME)  # merged, DIR is as one machine would have made it
        if place.storage:
            place.storage.put_states()
        return MergeResult(counts, len(every), {}, count)


def _read_count(root: Path) -> int:
    try:
        count = json.loads((root / _TASKS_NAME).read_text(encoding="utf-8"))["partitions"]
    except (OSError, ValueError, KeyError, TypeError):  # it only helps to say who is to go on
        return 1
    return count if isinstance(count, int) and count > 0 else 1
