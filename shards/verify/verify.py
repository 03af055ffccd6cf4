"""Verification of a DIR: reads every file again, and compares tars, index, outcomes and list with each other."""

import collections
import concurrent.futures
import dataclasses
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from shards.config.recipe import Recipe
from shards.errors import ShardsError
from shards.format.index import INDEX_FILE, INDEX_SCHEMA, METADATA_KEY
from shards.format.outcomes import OUTCOMES_FILE, OUTCOMES_SCHEMA, Status
from shards.progress import track_progress
from shards.storage.file_lock import WORK_FOLDER, find_lock_holder
from shards.storage.journal import REDO_SUFFIX
from shards.storage.shard_dir import ROWS_PATH, Block, ShardDir, load_shard_dir
from shards.storage.snapshot import Snapshot
from shards.verify.tar_check import Difference, check_tar

_STATUSES = frozenset(map(str, Status))
_COMPARED_STATUSES = (Status.KEPT, Status.DUPLICATE)  # of rows that may have the picture of an earlier row
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
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV and hashing release the GIL
        reading = pool.map(lambda block: _read_block(shard_dir, block, snapshot), blocks)
        results = list(track_progress(reading, len(blocks), "blocks read", console))
    differences = [difference for result in results for difference in result.differences]
    for column in ("row", "key"):
        differences += _find_repeated(ROWS_PATH, column, shard_dir.row_file.read([column]).column(column).to_pylist())
    entries, outcomes = [INDEX_SCHEMA.empty_table()], [OUTCOMES_SCHEMA.empty_table()]
    unread: set[int] = set()
    for block, result in zip(blocks, results, strict=True):
        if result.entries is None or result.outcomes is None:
            unread |= {row["row"] for row in shard_dir.rows_of(block)}
        else:
            entries.append(result.entries)
            outcomes.append(result.outcomes)
    pictures = _check_index(shard_dir, pa.concat_tables(entries), unread, differences)
    _check_outcomes(root, pa.concat_tables(outcomes), unread, differences)
    differences += _find_unknown_files(root, blocks)
    return VerifyResult(len(blocks), len(shard_dir), pictures, differences)


def _read_block(shard_dir: ShardDir, block: Block, snapshot: Snapshot) -> _BlockResult:
    """Read a block's three files and compare them with each other and with the block's rows."""
    root, differences = shard_dir.root, list[Difference]()
    missing = [name for name in block.files if not (root / name).is_file()]
    if missing:
        found = f"no {', no '.join(missing)}"
        return _BlockResult(None, None, [Difference(block.shard, "", "its block", "committed", found)])
    entries = _read_table(root, block.index_part, INDEX_SCHEMA, differences)
    outcomes = _read_table(root, block.outcomes_part, OUTCOMES_SCHEMA, differences)
    rows = shard_dir.rows_of(block)
    if outcomes is not None:
        differences += _compare(block.outcomes_part, rows, outcomes.to_pylist(), (*_LISTED, "image_url"))
    if entries is not None:
        listed = entries.to_pylist()
        if outcomes is not None:
            expected = _expected_entries(block, rows, outcomes.to_pylist(), shard_dir.recipe)
            differences += _compare(block.index_part, expected, listed, tuple(expected[0]) if expected else ())
        with snapshot.local_tar(block):
            differences += check_tar(root / block.shard, block.shard, listed, rows, shard_dir.recipe)
    return _BlockResult(entries, outcomes, differences)


def _expected_entries(
    block: Block, rows: list[dict[str, Any]], outcomes: list[dict[str, Any]], recipe: Recipe
) -> list[dict[str, Any]]:
    """Return the entries that the part of the index must have, with the columns that list and outcomes determine."""
    kept = {outcome["row"]: outcome for outcome in outcomes if outcome["status"] == Status.KEPT}
    expected = [{name: row[name] for name in _LISTED} | {"shard": block.shard} for row in rows if row["row"] in kept]
    for entry in expected if recipe.encode_format == "original" else ():
        outcome = kept[entry["row"]]
        entry |= {"length": outcome["bytes"], "sha256": outcome["sha256"]}
    return expected


def _check_index(shard_dir: ShardDir, parts: pa.Table, unread: set[int], differences: list[Difference]) -> int:
    """Compare index.parquet with the blocks' parts, and return the number of its pictures."""
    table = _read_table(shard_dir.root, INDEX_FILE, INDEX_SCHEMA, differences)
    if table is None:
        return 0
    expected = shard_dir.recipe.index_metadata.to_bytes()
    metadata = (table.schema.metadata or {}).get(METADATA_KEY, b"")
    if metadata != expected:
        found = metadata.decode(errors="replace")
        differences.append(Difference(INDEX_FILE, "", "metadata", expected.decode(), found))
    rows = [row for row in table.to_pylist() if row["row"] not in unread]
    differences += _compare(INDEX_FILE, parts.to_pylist(), rows, INDEX_SCHEMA.names)
    return len(table)


def _check_outcomes(root: Path, parts: pa.Table, unread: set[int], differences: list[Difference]) -> None:
    """Compare outcomes.parquet with the blocks' parts, and its duplicates with the hashes."""
    name = OUTCOMES_FILE
    table = _read_table(root, name, OUTCOMES_SCHEMA, differences)
    if table is None:
        return
    rows = table.to_pylist()
    columns = [column for column in OUTCOMES_SCHEMA.names if column != "duplicate_of"]
    differences += _compare(name, parts.to_pylist(), [row for row in rows if row["row"] not in unread], columns)
    last_first = sorted(rows, key=operator.itemgetter("row"), reverse=True)
    first = {row["sha256"]: row["row"] for row in last_first if row["status"] == Status.KEPT}
    for row in rows:
        if row["status"] not in _STATUSES:
            differences.append(Difference(name, row["key"], "status", "one of the closed set", row["status"]))
        original = first.get(row["sha256"]) if row["status"] in _COMPARED_STATUSES else None
        if row["duplicate_of"] != (None if original == row["row"] else original):
            differences.append(Difference(name, row["key"], "duplicate_of", original, row["duplicate_of"]))


def _find_unknown_files(root: Path, blocks: list[Block]) -> Iterable[Difference]:
    """Find tars that belong to no block, other files in the blocks' folders, and what killed processes left."""
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
        if Path(name).parts[0] in folders or path.suffix == ".tar":
            yield Difference(name, "", "file", "none (it belongs to no block)", f"{path.stat().st_size} bytes")


def _read_table(root: Path, name: str, schema: pa.Schema, differences: list[Difference]) -> pa.Table | None:
    """Read a Parquet file of a known schema; return None and add a difference if it isn't one."""
    path = root / name
    if not path.is_file():
        found = f"none; make it with: python -m shards finalize {root}"
        differences.append(Difference(name, "", "file", "present", found))
        return None
    try:
        table = pq.read_table(path)
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        differences.append(Difference(name, "", "file", "Parquet", str(error).partition("\n")[0]))
        return None
    if not table.schema.equals(schema):
        differences.append(Difference(name, "", "columns", _describe(schema), _describe(table.schema)))
        return None
    return table


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else '!'}" for field in schema)


def _compare(
    name: str, expected: list[dict[str, Any]], found: list[dict[str, Any]], columns: Iterable[str]
) -> list[Difference]:
    """Compare a file's rows with the expected ones, matched by their number in the list, and then their order."""
    by_number, counts = {row["row"]: row for row in expected}, collections.Counter(row["row"] for row in found)
    differences: list[Difference] = []
    for row in found:
        wanted = by_number.get(row["row"])
        names = columns if wanted else ("row",)
        values = [(column, wanted[column] if wanted else "none", row[column]) for column in names]
        differences += [Difference(name, row["key"], *value) for value in values if value[1] != value[2]]
    for number, wanted in by_number.items():
        if counts[number] != 1:
            differences.append(Difference(name, wanted["key"], f"row {number}", "once", f"{counts[number]} times"))
    differences += _find_repeated(name, "key", [row["key"] for row in found])
    if not differences and [row["row"] for row in found] != [*by_number]:
        differences.append(Difference(name, "", "order of the rows", "that of the list", "another"))
    return differences


def _find_repeated(name: str, what: str, values: list[Any]) -> list[Difference]:
    counts = collections.Counter(values).items()
    return [Difference(name, str(value), what, "once", f"{count} times") for value, count in counts if count > 1]
