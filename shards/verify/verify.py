"""Verification of a DIR: reads every file again, and compares tars, index, outcomes and list with each other."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from shards.config.recipe import Recipe
from shards.errors import ShardsError
from shards.format.index import LABELS, index_schema
from shards.format.outcomes import OUTCOMES_SCHEMA, Status
from shards.format.parts import read_parts
from shards.format.threads import map_in_threads
from shards.progress import track_progress
from shards.storage.file_lock import WORK_FOLDER, find_lock_holder
from shards.storage.journal import REDO_SUFFIX
from shards.storage.shard_dir import ROWS_PATH, Block, ShardDir, load_shard_dir, read_part
from shards.storage.snapshot import Snapshot
from shards.verify.parquet_files import JoinedIndex, JoinedOutcomes, read_table
from shards.verify.row_comparison import compare_rows, find_repeated
from shards.verify.tar_check import Difference, check_pictures, check_tar

_LISTED = ("row", "key", "split", "label")  # the columns of the list that index and outcomes both have


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """The result of a verification."""

    blocks: int  # number of blocks
    rows: int  # number of rows of the list
    pictures: int  # number of pictures in index.parquet
    differences: list[Difference]  # everything that is wrong; empty if DIR is complete and consistent


@dataclasses.dataclass(frozen=True)
class _BlockResult:
    """A block's parts of index and outcomes, None if they can't be read, and everything that is wrong."""

    entries: pa.Table | None
    outcomes: pa.Table | None
    differences: list[Difference]


def verify(snapshot: Snapshot, console: Console) -> VerifyResult:
    """Read all of DIR and compare tars, parts, index and outcomes with each other and with the list's rows.

    Raises:
        ShardsError: there is no DIR, its recipe can't be read, or another process writes there.
    """
    root = snapshot.root
    shard_dir = load_shard_dir(root)
    holder = find_lock_holder(root)
    if holder:
        raise ShardsError(f"{root} is in use by {holder}; verify it once that has ended")
    blocks = shard_dir.blocks()
    unread: set[int] = set()  # rows of blocks that can't be read
    index, outcomes = JoinedIndex(shard_dir, unread), JoinedOutcomes(root, unread)
    differences: list[Difference] = []
    readable: list[Block] = []
    reading = map_in_threads(lambda block: _read_block(shard_dir, block, snapshot), blocks)  # hashing releases the GIL
    for block, result in zip(blocks, track_progress(reading, len(blocks), "blocks read", console), strict=True):
        differences += result.differences
        if result.entries is None or result.outcomes is None:
            unread |= {row["row"] for row in shard_dir.rows_of(block)}
        else:
            readable.append(block)
            index.expect(result.entries)
            outcomes.expect(result.outcomes)
    for column in ("row", "key"):
        differences += find_repeated(ROWS_PATH, column, functools.partial(_read_column, root / ROWS_PATH, column))
    differences += index.finish(lambda: (read_part(root, block.index_part) for block in readable))
    differences += outcomes.finish(lambda: (read_part(root, block.outcomes_part) for block in readable))
    differences += _find_unknown_files(root, blocks, has_other_tars=shard_dir.recipe.indexed)
    return VerifyResult(len(blocks), len(shard_dir), index.count(), differences)


def _read_block(shard_dir: ShardDir, block: Block, snapshot: Snapshot) -> _BlockResult:
    """Read a block's three files and compare them with each other and with the block's rows."""
    root, differences = shard_dir.root, list[Difference]()
    missing = [name for name in block.files if not (root / name).is_file()]
    if missing:
        found = f"no {', no '.join(missing)}"
        return _BlockResult(None, None, [Difference(block.shard, "", "its block", "committed", found)])
    schema = index_schema(several_labels=shard_dir.recipe.several_labels)
    entries = read_table(root, block.index_part, schema, differences)
    outcomes = read_table(root, block.outcomes_part, OUTCOMES_SCHEMA, differences)
    rows = shard_dir.rows_of(block)
    if outcomes is not None:
        differences += compare_rows(block.outcomes_part, rows, outcomes.to_pylist(), (*_LISTED, "image_url"))
    if entries is not None:
        listed = entries.to_pylist()
        if outcomes is not None:
            expected = _expected_entries(block, rows, outcomes.to_pylist(), shard_dir.recipe)
            differences += compare_rows(block.index_part, expected, listed, tuple(expected[0]) if expected else ())
        with snapshot.local_tar(block):
            tar, recipe = root / block.shard, shard_dir.recipe
            if recipe.indexed:
                differences += check_pictures(tar, block.shard, listed, recipe)
            else:
                differences += check_tar(tar, block.shard, listed, rows, recipe)
    return _BlockResult(entries, outcomes, differences)


def _expected_entries(
    block: Block, rows: list[dict[str, Any]], outcomes: list[dict[str, Any]], recipe: Recipe
) -> list[dict[str, Any]]:
    """Return the entries that the part of the index must have, with the columns that list and outcomes determine."""
    kept = {outcome["row"]: outcome for outcome in outcomes if outcome["status"] == Status.KEPT}
    listed = (*_LISTED, *([LABELS.name] if recipe.several_labels else []))
    expected = [{name: row[name] for name in listed} | {"shard": block.shard} for row in rows if row["row"] in kept]
    for entry in expected if recipe.encode_format == "original" else ():
        outcome = kept[entry["row"]]
        entry |= {"length": outcome["bytes"], "sha256": outcome["sha256"]}
    return expected


def _read_column(path: Path, column: str) -> Iterator[pa.ChunkedArray]:
    for part in read_parts(path, [column]):
        yield part.column(column)


def _find_unknown_files(root: Path, blocks: list[Block], *, has_other_tars: bool) -> Iterable[Difference]:
    """Find tars that belong to no block, other files in the blocks' folders, and what killed processes left.

    With `has_other_tars`, the tars outside of the blocks' folders are those to which the blocks' tars are links.
    """
    known = {ROWS_PATH, *(name for block in blocks for name in block.files)}
    folders = {Path(name).parts[0] for name in known}
    left_over = None
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.parent == left_over:
            continue
        if name == WORK_FOLDER or path.suffix == REDO_SUFFIX:
            left_over = path
            yield Difference(name, "", "folder", "none", "what a killed process left; assemble completes or removes it")
        if path.is_dir() or name in known or Path(name).parts[0] == WORK_FOLDER or path.suffix == ".json":
            continue  # JSON files are the state of an assembly
        if Path(name).parts[0] in folders or (path.suffix == ".tar" and not has_other_tars):
            yield Difference(name, "", "file", "none (it belongs to no block)", f"{path.stat().st_size} bytes")
