"""Creates a DIR's row order, and extends it if the list or --images has grown."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from shards.config.recipe import Recipe
from shards.counted import counted
from shards.errors import ShardsError
from shards.format.index import LABELS
from shards.storage.shard_dir import ROWS_PATH, ShardDir, create_shard_dir, load_shard_dir
from shards.url_list.parse import locate_row
from shards.url_list.select import select_rows
from shards.url_list.source import Source

_COMPARED = frozenset({"row", "image_url", "split", "label", LABELS.name})


def open_or_create(root: Path, recipe: Recipe, work: Path, source: Source) -> ShardDir:
    """Return DIR with its row order; new rows follow the existing ones.

    The list is read only if DIR does not have its rows yet. `work` is on DIR's file system.

    Raises:
        ShardsError: DIR was made from another list or other settings, or has more rows.
    """
    if not (root / ROWS_PATH).is_file():
        if source.is_folder and source.base and source.base.resolve() == root.resolve():
            raise ShardsError(
                f"--out {root} is the folder of the pictures; give another one, such as {root / 'shards'}"
            )
        rows, recipe = select_rows(source, recipe, work)
        return create_shard_dir(root, recipe, rows, work)
    found = load_shard_dir(root)
    difference = found.recipe.difference(recipe)
    if difference is None and not source.may_grow and found.recipe.list_sha256 != recipe.list_sha256:
        difference = f"another list (sha256 {found.recipe.list_sha256[:12]}..., not {recipe.list_sha256[:12]}...)"
        if source.base is not None:
            difference = f"other pictures than {source.name} has now"
    if difference:
        raise ShardsError(f"{root} was made from {difference}; use another --out, or the same settings")
    if (found.recipe.list_sha256, found.recipe.images) == (recipe.list_sha256, recipe.images):
        return found
    return _append_rows(found, recipe, work, source)


def _append_rows(found: ShardDir, recipe: Recipe, work: Path, source: Source) -> ShardDir:
    """Extend the stored row order.

    Raises:
        ShardsError: the stored rows would change.
    """
    count = len(found)
    if 0 <= recipe.images < count:
        raise ShardsError(
            f"{found.root} has {counted(count, 'row')}, more than --images {recipe.images}; use another --out"
        )
    rows, grown = select_rows(source, dataclasses.replace(recipe, list_lengths=found.recipe.list_lengths), work)
    names = found.recipe.classes
    if grown.classes[: len(names)] != names:
        raise ShardsError(
            f"--list {source.name} changes the order of the classes of {found.root} ({', '.join(grown.classes)[:80]}); "
            f"give --classes, a file with one name per line: {', '.join(names)[:80]}, then the new ones"
        )
    if grown.several_labels != found.recipe.several_labels:
        raise ShardsError(
            f"--list {source.name} has rows with several labels now, but each picture of {found.root} has one; "
            "use another --out"
        )
    joined = pa.RecordBatchReader.from_batches(rows.schema, _join(found, rows, source, work))
    return create_shard_dir(found.root, grown, joined, work)


def _join(found: ShardDir, listed: pa.RecordBatchReader, source: Source, work: Path) -> Iterator[pa.RecordBatch]:
    """Yield the stored rows, and then the listed rows that follow them.

    Raises:
        ShardsError: the first listed rows are not the stored ones.
    """
    rest = listed.schema.empty_table()
    changed: list[int] = []
    compared = [name for name in listed.schema.names if name in _COMPARED]
    for part in found.row_file.to_reader():
        stored = pa.Table.from_batches([part])
        while len(rest) < len(stored) and (batch := next(listed, None)):
            rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        changed += _find_differences(stored.select(compared), rest.slice(0, len(stored)).select(compared))
        rest = rest.slice(len(stored))
        yield from stored.cast(listed.schema).to_batches()
    if changed:
        place = locate_row(source, min(changed), found.recipe, work)
        raise ShardsError(
            f"--list {source.name}: {place} differs from the list that {found.root} was made from; "
            "append new rows at the end, or use another --out"
        )
    yield from rest.to_batches()
    yield from listed


def _find_differences(stored: pa.Table, listed: pa.Table) -> list[int]:
    """Return the stored rows that differ in the list or have another position in the order."""
    if stored.equals(listed):
        return []
    old, new = ([tuple(row.values()) for row in table.to_pylist()] for table in (stored, listed))
    return [row[0] for row, other in itertools.zip_longest(old, new) if row != other]
