"""A DIR's row order: fixed on first use, and afterwards only ever extended, where its list or --images has grown."""

import dataclasses
import itertools
from pathlib import Path

import pyarrow as pa

from shards.errors import ShardsError
from shards.storage.shard_dir import Recipe, ShardDir, create_shard_dir, load_shard_dir, shard_dir_exists
from shards.url_list.select import Selection, select_rows
from shards.url_list.source import Source

_COMPARED = ["row", "image_url", "split", "label"]


def open_or_create(root: Path, recipe: Recipe, work: Path, source: Source, choice: Selection) -> ShardDir:
    """Returns DIR with its rows in order; new ones stand behind those that it had.

    Args:
        root: DIR.
        recipe: what this assembly is made from.
        work: a folder for temporary files, of DIR's file system.
        source: the list; of a DIR that was made from the same one, it isn't read again.
        choice: what to take of it.

    Raises:
        ShardsError: DIR was made from something else, or would lose what it has.
    """
    if not shard_dir_exists(root):
        rows, classes, lengths = select_rows(source, choice)
        return create_shard_dir(root, dataclasses.replace(recipe, classes=classes, list_lengths=lengths), rows, work)
    found = load_shard_dir(root)
    difference = found.recipe.difference(recipe)
    if difference is None and source.is_local and found.recipe.list_sha256 != recipe.list_sha256:
        difference = f"another list (sha256 {found.recipe.list_sha256[:12]}..., not {recipe.list_sha256[:12]}...)"
    if difference:
        raise ShardsError(f"{root} was made from {difference}; use another --out, or the same settings")
    if (found.recipe.list_sha256, found.recipe.images) == (recipe.list_sha256, recipe.images):
        return found
    return _append_rows(found, recipe, work, source, choice)


def _append_rows(found: ShardDir, recipe: Recipe, work: Path, source: Source, choice: Selection) -> ShardDir:
    """Extends the stored order.

    Raises:
        ShardsError: it would have to change.
    """
    count = len(found.rows)
    if 0 <= recipe.images < count:
        raise ShardsError(f"{found.root} has {count} rows, more than --images {recipe.images}; use another --out")
    rows, classes, lengths = select_rows(source, choice, found.recipe.list_lengths)
    names = found.recipe.classes
    if classes[: len(names)] != names:
        raise ShardsError(
            f"--list {source.name} would number the classes of {found.root} anew ({', '.join(classes)[:80]}); "
            f"give --classes, a file with a name a line: {', '.join(names)[:80]}, and new ones behind"
        )
    changed = _first_difference(found.rows, rows.slice(0, count))
    if changed is not None:
        raise ShardsError(
            f"--list {source.name}: row {changed} isn't the one that {found.root} was made from; rows may be added, "
            "behind the others; for another list use another --out"
        )
    grown = dataclasses.replace(recipe, classes=classes, list_lengths=lengths)
    return create_shard_dir(found.root, grown, pa.concat_tables([found.rows, rows.slice(count)]), work)


def _first_difference(stored: pa.Table, listed: pa.Table) -> int | None:
    """Returns the number of the first stored row that the list has otherwise, or not at that place of the order."""
    if stored.select(_COMPARED).equals(listed.select(_COMPARED)):
        return None
    old, new = (
        [tuple(row[name] for name in _COMPARED) for row in table.select(_COMPARED).to_pylist()]
        for table in (stored, listed)
    )
    others = [
        row[0] for row, place in zip(old, itertools.chain(new, itertools.repeat(None)), strict=False) if row != place
    ]
    return min(others, default=None)
