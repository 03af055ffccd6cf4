"""The committed blocks' parts -> index.parquet and outcomes.parquet, with equal bodies judged over them all."""

import collections
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.assembly.deduplicate import DUPLICATE_COLUMNS, DuplicateRules, find_duplicates
from shards.assembly.pack import PackJob, pack_block
from shards.errors import ShardsError
from shards.files import publish_file
from shards.format.index import INDEX_FILE, IndexMetadata, write_index, write_parts
from shards.format.outcomes import OUTCOMES_FILE, OUTCOMES_SCHEMA, Outcome, Status
from shards.storage.journal import recover_blocks
from shards.storage.remote import RemoteShardDir
from shards.storage.shard_dir import Block, ShardDir, read_part

_NOTHING = OUTCOMES_SCHEMA.empty_table().select(DUPLICATE_COLUMNS)
_RULES_NAME = "blocks/rules.json"


def finalize(shard_dir: ShardDir, work: Path, storage: RemoteShardDir | None = None) -> collections.Counter[str]:
    """Joins the parts of all committed blocks, in block order, and returns how many rows came to what.

    Blocks that hold a picture which turns out to be a placeholder, or one too many, are made again without it.
    Equal parts give equal files, whoever wrote them and in whatever order.

    Args:
        shard_dir: DIR.
        work: a folder for temporary files, of DIR's file system.
        storage: what brings it all to a URL, where DIR is a stage.

    Raises:
        ShardsError: a part, or a tar that must be made again, can't be read; or the URL can't be reached.
    """
    root, recipe = shard_dir.root, shard_dir.recipe
    recover_blocks(root, shard_dir.blocks())
    blocks = [block for block in shard_dir.blocks() if shard_dir.committed_rows(block)]
    compared = [read_part(root, block.outcomes_part, DUPLICATE_COLUMNS) for block in blocks]
    starts = [0, *itertools.accumulate(map(len, compared))]
    judged = find_duplicates(pa.concat_tables([_NOTHING, *compared]), read_rules(root))
    del compared

    def ledger_of(place: int) -> pa.Table:
        return judged.apply(read_part(root, blocks[place].outcomes_part), starts[place])

    for place, block in enumerate(blocks):
        is_changed = judged.is_changed[starts[place] : starts[place + 1]]
        if is_changed.any():
            if storage:
                storage.fetch_tar(block)
            _drop_duplicates(shard_dir, block, ledger_of(place).filter(pa.array(is_changed)), work)
            if storage:
                storage.put_block(block)
    metadata = IndexMetadata(
        classes=recipe.classes,
        encode_format=recipe.encode_format,
        image_size=recipe.image_size,
        list_sha256=recipe.list_sha256,
        seed=recipe.seed,
    )
    entries = (read_part(root, block.index_part) for block in blocks)
    write_index(work / INDEX_FILE, entries, metadata)
    write_parts(work / OUTCOMES_FILE, map(ledger_of, range(len(blocks))), OUTCOMES_SCHEMA)
    # The ledger last: where it is there, so is the index it speaks of.
    publish_file(work / INDEX_FILE, root / INDEX_FILE)
    publish_file(work / OUTCOMES_FILE, root / OUTCOMES_FILE)
    if storage:
        storage.put_index()
    return collections.Counter(judged.statuses.tolist())


def _drop_duplicates(shard_dir: ShardDir, block: Block, changed: pa.Table, work: Path) -> None:
    """Makes a block again, from what it has, without the pictures of the rows that `changed` has of the ledger."""
    names = [field.name for field in dataclasses.fields(Outcome)]
    arrivals: dict[int, tuple[Outcome, Path | None]] = {}
    for line in changed.to_pylist():
        fields: dict[str, Any] = {name: line[name] for name in names} | {"status": Status(line["status"])}
        arrivals[line["row"]] = (Outcome(**fields), None)
    packing = PackJob(
        root=shard_dir.root,
        work=work,
        block=block,
        rows=shard_dir.rows_of(block)[: shard_dir.committed_rows(block)],
        arrivals=arrivals,
        encode_format=shard_dir.recipe.encode_format,
        image_size=shard_dir.recipe.image_size,
        is_committed=True,
    )
    pack_block(packing)


def read_rules(root: Path) -> DuplicateRules:
    """Returns what DIR makes of equal bodies, as the last assembly was told.

    Raises:
        ShardsError: the file that says so is damaged.
    """
    path = root / _RULES_NAME
    try:
        return DuplicateRules(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return DuplicateRules()
    except (ValueError, TypeError) as error:
        raise ShardsError(f"{path} can't be read; remove it, and give the assemble command again") from error


def write_rules(root: Path, rules: DuplicateRules, work: Path) -> None:
    """Has DIR judge equal bodies by these rules from now on, what was left out before notwithstanding."""
    draft = work / "rules.json"
    draft.write_text(json.dumps(dataclasses.asdict(rules)), encoding="utf-8")
    publish_file(draft, root / _RULES_NAME)
