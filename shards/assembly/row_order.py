"""Create a DIR's row order, and extend it if the list or --images has grown."""

import dataclasses
import itertools
from pathlib import Path

import pyarrow as pa

from shards.config.recipe import Recipe
from shards.errors import ShardsError
from shards.storage.shard_dir import ROWS_PATH, ShardDir, create_shard_dir, load_shard_dir
from shards.url_list.select import select_rows
from shards.url_list.source import Source

_COMPARED = ["row", "image_url", "split", "label"]


def open_or_create(root: Path, recipe: Recipe, work: Path, source: Source) -> ShardDir:
    """Return DIR with its row order; new rows follow the existing ones.

    The list is read only if DIR does not have its rows yet. `work` is on DIR's file system.

    Raises:
        ShardsError: DIR was made from another list or other settings, or has more rows.
    """
    if not (root / ROWS_PATH).is_file():
        rows, recipe = select_rows(source, recipe)
        return create_shard_dir(root, recipe, rows, work)
    found = load_shard_dir(root)
    difference = found.recipe.difference(recipe)
    if difference is None and source.is_local and found.recipe.list_sha256 != recipe.list_sha256:
        difference = f"another list (sha256 {found.recipe.list_sha256[:12]}..., not {recipe.list_sha256[:12]}...)"
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
    count = len(found.rows)
    if 0 <= recipe.images < count:
        raise ShardsError(f"{found.root} has {count} rows, more than --images {recipe.images}; use another --out")
    rows, grown = select_rows(source, dataclasses.replace(recipe, list_lengths=found.recipe.list_lengths))
    names = found.recipe.classes
    if grown.classes[: len(names)] != names:
        raise ShardsError(
            f"--list {source.name} changes the order of the classes of {found.root} ({', '.join(grown.classes)[:80]}); "
            f"give --classes, a file with one name per line: {', '.join(names)[:80]}, then the new ones"
        )
    changed = _first_difference(found.rows, rows.slice(0, count))
    if changed is not None:
        raise ShardsError(
            f"--list {source.name}: row {changed} differs from the list that {found.root} was made from; "
            "append new rows at the end, or use another --out"
        )
    return create_shard_dir(found.root, grown, pa.concat_tables([found.rows, rows.slice(count)]), work)


def _first_difference(stored: pa.Table, listed: pa.Table) -> int | None:
    """Return the lowest stored row that differs in the list or has another position in the order, or None."""
    if stored.select(_COMPARED).equals(listed.select(_COMPARED)):
        return None
    old, new = (
        [tuple(row[name] for name in _COMPARED) for row in table.select(_COMPARED).to_pylist()]
        for table in (stored, listed)
    )
    pairs = itertools.zip_longest(old, new[: len(old)])
    return min((row[0] for row, other in pairs if row != other), default=None)
