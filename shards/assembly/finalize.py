"""Join the parts of all blocks into index.parquet and outcomes.parquet, and drop placeholders and duplicates."""

import collections
import dataclasses
import json
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from shards.assembly.deduplicate import DuplicateRules, find_duplicates
from shards.assembly.pack import PackJob, Results, pack_block, to_outcome
from shards.errors import ShardsError
from shards.files import publish_file
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
    parts = [block.outcomes_part for block in blocks]
    verdicts = find_duplicates(
        len(blocks), lambda number, names: read_part(root, parts[number], names), read_rules(root)
    )
    counts: collections.Counter[str] = collections.Counter()

    def outcomes_of(number: int) -> pa.Table:
        return verdicts.apply(read_part(root, parts[number]), number)

    def count_outcomes(number: int) -> pa.Table:
        outcomes = outcomes_of(number)
        counts.update(outcomes.column("status").to_pylist())
        return outcomes

    for number, block in enumerate(blocks):
        is_changed = verdicts.changed_rows(number)
        if is_changed.any():
            if remote:
                remote.fetch_tar(block)
            _drop_duplicates(shard_dir, block, outcomes_of(number).filter(pa.array(is_changed)), work)
            if remote:
                remote.put_block(block)
    entries = (read_part(root, block.index_part) for block in blocks)
    outcomes = map(count_outcomes, range(len(blocks)))
    write_index(
        work / INDEX_FILE,
        track_progress(entries, len(blocks), "blocks in the index", console),
        shard_dir.recipe.index_metadata,
        several_labels=shard_dir.recipe.several_labels,
    )
    write_parts(
        work / OUTCOMES_FILE, track_progress(outcomes, len(blocks), "blocks in the outcomes", console), OUTCOMES_SCHEMA
    )
    # outcomes.parquet is published last, so that an index exists wherever it does.
    publish_file(work / INDEX_FILE, root / INDEX_FILE)
    publish_file(work / OUTCOMES_FILE, root / OUTCOMES_FILE)
    if remote:
        remote.put_index()
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
    draft = work / "rules.json"
    draft.write_text(json.dumps(dataclasses.asdict(rules)), encoding="utf-8")
    publish_file(draft, root / _RULES_NAME)
