"""Does DIR hold what its index and its ledger say? Everything is read again, and nothing is written."""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from shards.errors import ShardsError
from shards.format.index import INDEX_FILE, INDEX_SCHEMA, METADATA_KEY, IndexMetadata
from shards.format.outcomes import OUTCOMES_FILE, OUTCOMES_SCHEMA, Status
from shards.progress import watch
from shards.storage.file_lock import WORK_FOLDER, find_lock_holder
from shards.storage.journal import REDO_SUFFIX
from shards.storage.shard_dir import ROWS_PATH, Block, Recipe, ShardDir, load_shard_dir
from shards.storage.snapshot import Snapshot
from shards.verify.tar_check import Difference, check_tar

_STATUSES = frozenset(map(str, Status))
_SHARED_COLUMNS = (Status.KEPT, Status.DUPLICATE)
_LISTED = ("row", "key", "split", "label")  # what index and ledger both have of a list's row


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """What a DIR was found to be.

    Attributes:
        blocks: how many it consists of.
        rows: of the list.
        pictures: that index.parquet names.
        differences: everything that isn't as it should be; none where DIR is whole.
    """

    blocks: int
    rows: int
    pictures: int
    differences: list[Difference]


@dataclasses.dataclass(frozen=True)
class _Read:
    """A block as it was read: its parts, None where it isn't whole, and what isn't as it should be."""

    entries: pa.Table | None
    ledger: pa.Table | None
    differences: list[Difference]


def verify(layout: Snapshot, console: Console) -> VerifyResult:
    """Reads all of DIR again: tars, parts, index and ledger, each against the others and the list's rows.

    Args:
        layout: DIR, as it lies in a folder.
        console: is shown how far it is.

    Raises:
        ShardsError: there is no DIR, or what it was made from can't be read; or somebody is at work in it.
    """
    root = layout.root
    shard_dir = load_shard_dir(root)
    holder = find_lock_holder(root)
    if holder:
        raise ShardsError(f"{root} is in use by {holder}; verify it once that has ended")
    every = shard_dir.blocks()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV and hashing leave Python's lock
        reading = pool.map(lambda block: _read_block(shard_dir, block, layout), every)
        reads = list(watch(reading, len(every), "blocks read", console))
    differences = [difference for read in reads for difference in read.differences]
    for column in ("row", "key"):
        differences += _find_repeated(ROWS_PATH, column, shard_dir.rows.column(column).to_pylist())
    broken = [block for block, read in zip(every, reads, strict=True) if read.entries is None or read.ledger is None]
    unread = {row["row"] for block in broken for row in shard_dir.rows_of(block)}
    parts = [part for read in reads if (part := read.entries) is not None and read.ledger is not None]
    found = _check_index(shard_dir, pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts]), unread, differences)
    parts = [part for read in reads if (part := read.ledger) is not None and read.entries is not None]
    _check_ledger(root, pa.concat_tables([OUTCOMES_SCHEMA.empty_table(), *parts]), unread, differences)
    differences += _find_strays(root, every)
    return VerifyResult(len(every), len(shard_dir.rows), found, differences)


def _read_block(shard_dir: ShardDir, block: Block, layout: Snapshot) -> _Read:
    """Reads a block's three files and holds them against each other and the block's rows."""
    root, differences = shard_dir.root, list[Difference]()
    lost = [name for name in _files_of(block) if not (root / name).is_file()]
    if lost:
        return _Read(None, None, [Difference(block.shard, "", "its block", "committed", f"no {', no '.join(lost)}")])
    entries = _read_table(root, block.index_part, INDEX_SCHEMA, differences)
    ledger = _read_table(root, block.outcomes_part, OUTCOMES_SCHEMA, differences)
    rows = shard_dir.rows_of(block)
    if ledger is not None:
        differences += _compare(block.outcomes_part, rows, ledger.to_pylist(), (*_LISTED, "image_url"))
    if entries is not None:
        listed = entries.to_pylist()
        if ledger is not None:
            kept = _check_kept(block, rows, ledger.to_pylist(), shard_dir.recipe)
            differences += _compare(block.index_part, kept, listed, tuple(kept[0]) if kept else ())
        with layout.reading(block):
            differences += check_tar(root / block.shard, block.shard, listed, rows, shard_dir.recipe)
    return _Read(entries, ledger, differences)


def _check_kept(
    block: Block, rows: list[dict[str, Any]], ledger: list[dict[str, Any]], recipe: Recipe
) -> list[dict[str, Any]]:
    """Returns what the part of the index must hold, as the ledger has it, column for column as far as it knows."""
    kept = {row["row"]: row for row in ledger if row["status"] == Status.KEPT}
    expected: list[dict[str, Any]] = []
    for row in rows:
        if row["row"] in kept:
            entry = {name: row[name] for name in _LISTED} | {"shard": block.shard}
            if recipe.encode_format == "original":
                came = kept[row["row"]]
                entry |= {"length": came["bytes"], "sha256": came["sha256"]}
            expected.append(entry)
    return expected


def _check_index(shard_dir: ShardDir, parts: pa.Table, unread: set[int], differences: list[Difference]) -> int:
    """Holds index.parquet against the blocks' parts, and returns how many pictures it names."""
    recipe, name = shard_dir.recipe, INDEX_FILE
    table = _read_table(shard_dir.root, name, INDEX_SCHEMA, differences)
    if table is None:
        return 0
    expected = IndexMetadata(
        classes=recipe.classes,
        encode_format=recipe.encode_format,
        image_size=recipe.image_size,
        list_sha256=recipe.list_sha256,
        seed=recipe.seed,
    ).to_bytes()
    metadata = (table.schema.metadata or {}).get(METADATA_KEY, b"")
    if metadata != expected:
        differences.append(Difference(name, "", "metadata", expected.decode(), metadata.decode(errors="replace")))
    found = [row for row in table.to_pylist() if row["row"] not in unread]
    differences += _compare(name, parts.to_pylist(), found, INDEX_SCHEMA.names)
    return len(table)


def _check_ledger(root: Path, parts: pa.Table, unread: set[int], differences: list[Difference]) -> None:
    """Holds outcomes.parquet against the blocks' parts, its duplicates against the hashes."""
    name = OUTCOMES_FILE
    table = _read_table(root, name, OUTCOMES_SCHEMA, differences)
    if table is None:
        return
    rows = table.to_pylist()
    columns = [column for column in OUTCOMES_SCHEMA.names if column != "duplicate_of"]
    differences += _compare(name, parts.to_pylist(), [row for row in rows if row["row"] not in unread], columns)
    kept = [row for row in sorted(rows, key=_place, reverse=True) if row["status"] == Status.KEPT]
    first = {row["sha256"]: row["row"] for row in kept}
    for row in rows:
        if row["status"] not in _STATUSES:
            differences.append(Difference(name, row["key"], "status", "one of the closed set", row["status"]))
        original = first.get(row["sha256"]) if row["status"] in _SHARED_COLUMNS else None
        if row["duplicate_of"] != (None if original == row["row"] else original):
            differences.append(Difference(name, row["key"], "duplicate_of", original, row["duplicate_of"]))


def _place(row: dict[str, Any]) -> int:
    return row["row"]


def _find_strays(root: Path, every: list[Block]) -> Iterable[Difference]:
    """Finds what no block names: tars anywhere, and whatever lies where blocks lie, or is left of a killed process."""
    named = {ROWS_PATH, *(name for block in every for name in _files_of(block))}
    places = {Path(name).parts[0] for name in named}
    left_over = None
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.parent == left_over:
            continue
        if name == WORK_FOLDER or path.suffix == REDO_SUFFIX:
            left_over = path
            yield Difference(name, "", "folder", "none", "what a killed process left; assemble completes or removes it")
        if path.is_dir() or name in named or Path(name).parts[0] == WORK_FOLDER or path.suffix == ".json":
            continue  # a .json is a state of an assembly
        if Path(name).parts[0] in places or path.suffix == ".tar":
            yield Difference(name, "", "file", "none that no block names", f"{path.stat().st_size} bytes")


def _files_of(block: Block) -> tuple[str, str, str]:
    return (block.outcomes_part, block.index_part, block.shard)


def _read_table(root: Path, name: str, schema: pa.Schema, differences: list[Difference]) -> pa.Table | None:
    """Reads a Parquet file of a known schema; a file that isn't one is a difference."""
    path = root / name
    if not path.is_file():
        differences.append(Difference(name, "", "file", "there", f"none; remake it: python -m shards finalize {root}"))
        return None
    try:
        table = pq.read_table(path)
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        differences.append(Difference(name, "", "file", "Parquet", str(error).partition("\n")[0]))
        return None
    if not table.schema.equals(schema):
        differences.append(Difference(name, "", "columns", _spell(schema), _spell(table.schema)))
        return None
    return table


def _spell(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else '!'}" for field in schema)


def _compare(
    name: str, expected: list[dict[str, Any]], found: list[dict[str, Any]], columns: Iterable[str]
) -> list[Difference]:
    """Holds a file's rows against those it must have, by their number in the list, then by their order."""
    wanted, counts = {row["row"]: row for row in expected}, collections.Counter(row["row"] for row in found)
    differences: list[Difference] = []
    for row in found:
        want = wanted.get(row["row"])
        names = columns if want else ("row",)
        values = [(column, want[column] if want else "none", row[column]) for column in names]
        differences += [Difference(name, row["key"], *value) for value in values if value[1] != value[2]]
    for number, want in wanted.items():
        if counts[number] != 1:
            differences.append(Difference(name, want["key"], f"row {number}", "once", f"{counts[number]} times"))
    differences += _find_repeated(name, "key", [row["key"] for row in found])
    if not differences and [row["row"] for row in found] != [*wanted]:
        differences.append(Difference(name, "", "order of the rows", "that of the list", "another"))
    return differences


def _find_repeated(name: str, what: str, values: list[Any]) -> list[Difference]:
    counts = collections.Counter(values)
    return [
        Difference(name, str(value), what, "once", f"{count} times") for value, count in counts.items() if count > 1
    ]
