"""Joins the parts of all blocks into index.parquet and outcomes.parquet, and drops placeholders and duplicates."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from shards.assembly.deduplicate import DuplicateRules, find_duplicates
from shards.assembly.pack import PackJob, Results, pack_block, to_outcome
from shards.errors import ShardsError
from shards.files import publish_file, publish_json
from shards.format.index import INDEX_FILE, write_index
from shards.format.outcomes import OUTCOMES_FILE, OUTCOMES_SCHEMA
from shards.format.parts import write_parts
from shards.progress import track_progress
from shards.storage.journal import recover_blocks
from shards.storage.remote import RemoteShardDir
from shards.storage.shard_dir import Block, ShardDir, read_part

_RULES_NAME = "blocks/rules.json"


def finalize(
    shard_dir: ShardDir, work: Path, remote: RemoteShardDir | None = None, console: Console | None = None
) -> collections.Counter[str]:
    """Join the parts of all committed blocks, in block order, and return the number of rows by status.

    A block with a placeholder or an unwanted duplicate is packed again without it. Equal parts give equal files, in
    whatever order they were written.

    `work` is on DIR's file system. `remote` is given if `shard_dir` is the stage of a URL. `console` gets the progress.

    Raises:
        ShardsError: a part, or a tar to pack again, can't be read; or the URL can't be reached.
    """
    root = shard_dir.root
    recover_blocks(root, shard_dir.blocks())
    blocks = [block for block in shard_dir.blocks() if shard_dir.committed_rows(block)]

    def read_outcomes(number: int, columns: Sequence[str] | None = None) -> pa.Table:
        return read_part(root, blocks[number].outcomes_part, columns)

    verdicts = find_duplicates(len(blocks), read_outcomes, read_rules(root))
    for number, block in enumerate(blocks):
        is_changed = verdicts.changed_rows(number)
        if is_changed.any():
            if remote:
                remote.fetch_tar(block)
            changed = verdicts.apply(read_outcomes(number), number).filter(pa.array(is_changed))
            _drop_duplicates(shard_dir, block, changed, work)
            if remote:
                remote.put_block(block)
    outcomes = (verdicts.apply(read_outcomes(number), number) for number in range(len(blocks)))
    counts = _write_tables(shard_dir, blocks, outcomes, work, console)
    if remote:
        remote.put_index()
    return counts


def _write_tables(
    shard_dir: ShardDir, blocks: list[Block], outcomes: Iterable[pa.Table], work: Path, console: Console | None
) -> collections.Counter[str]:
    """Write index.parquet and outcomes.parquet from the parts of the blocks; return the number of rows by status."""
    counts: collections.Counter[str] = collections.Counter()

    def count(part: pa.Table) -> pa.Table:
        counts.update(part.column("status").to_pylist())
        return part

    entries = (read_part(shard_dir.root, block.index_part) for block in blocks)
    write_index(
        work / INDEX_FILE,
        track_progress(entries, len(blocks), "blocks in the index", console),
        shard_dir.recipe.index_metadata,
        several_labels=shard_dir.recipe.several_labels,
    )
    shown = track_progress(map(count, outcomes), len(blocks), "blocks in the outcomes", console)
    write_parts(work / OUTCOMES_FILE, shown, OUTCOMES_SCHEMA)
    # outcomes.parquet is published last, so that an index exists wherever it does.
    publish_file(work / INDEX_FILE, shard_dir.root / INDEX_FILE)
    publish_file(work / OUTCOMES_FILE, shard_dir.root / OUTCOMES_FILE)
    return counts


def _drop_duplicates(shard_dir: ShardDir, block: Block, changed: pa.Table, work: Path) -> None:
    """Pack a block again without the pictures of the rows in `changed`, a table of their new outcomes."""
    results: Results = {row["row"]: (to_outcome(row), None) for row in changed.to_pylist()}
    job = PackJob.create(shard_dir, block, work, results, is_committed=True)
    pack_block(dataclasses.replace(job, rows=job.rows[: shard_dir.committed_rows(block)]))


def read_rules(root: Path) -> DuplicateRules:
    """Return the rules that the last assembly of DIR was given.

    Raises:
        ShardsError: their file is damaged.
    """
    path = root / _RULES_NAME
    try:
        return DuplicateRules(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return DuplicateRules()
    except (ValueError, TypeError) as error:
        raise ShardsError(f"{path} can't be read; remove it and run the assemble command again") from error


def write_rules(root: Path, rules: DuplicateRules, work: Path) -> None:
    """Store the rules for DIR; they apply to rows that are still kept."""
    publish_json(root / _RULES_NAME, dataclasses.asdict(rules), work)
