"""Selects, splits and orders the rows of a list, reproducibly."""

import dataclasses
import itertools
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shards.config.recipe import Recipe
from shards.errors import ShardsError
from shards.url_list.convert import convert_rows
from shards.url_list.labels import encode_labels
from shards.url_list.parse import ROWS_SCHEMA, TEXT_LABEL_SCHEMA, parse_caffe_lists, parse_list
from shards.url_list.source import Source

_KEY_LENGTH = 80
_MAX_BYTES = 2**30  # of a column that is reordered at once


def select_rows(source: Source, recipe: Recipe) -> tuple[pa.Table, Recipe]:
    """Parse a list, and select, split and label its rows as the recipe says.

    The order and the selection are those of Caffe's assemble_data.py: NumPy's legacy permutation of the whole list,
    then the rows below `labels`, then the first `images`. All rows of Caffe list files are taken, in their own order.

    If the list has grown, its former rows keep their order and keys. The new rows are permuted among themselves, by the
    same seed, and follow.

    Returns:
        The rows (`ROWS_SCHEMA`) in their seeded order, and the recipe with the class names and the list's length.

    Raises:
        ShardsError: the list is damaged, lacks a column, has an invalid value, or has become shorter.
    """
    if source.is_local:
        _refuse_selection(recipe)
        table = parse_caffe_lists(source)
    else:
        rows = parse_list(source, recipe.url_col, recipe.label_col)
        table = convert_rows(rows, source.name, recipe)
        recipe = dataclasses.replace(recipe, list_lengths=_add_length(recipe.list_lengths, len(table), source.name))
        table = _number_rows(table, recipe.list_lengths)
    labels, classes = encode_labels(table.column("label").to_pylist(), source, recipe.classes or None)
    table = table.set_column(table.column_names.index("label"), "label", pa.array(labels, pa.int32()))
    if not source.is_local:
        table = _take(table, _permute(recipe.seed, recipe.list_lengths))
    if recipe.labels is not None:
        table = table.filter(pc.field("label") < recipe.labels)
    if recipe.images > 0:
        table = table.slice(0, recipe.images)
    if not len(table):
        raise ShardsError(f"--list {source.name}: no row has a label below --labels {recipe.labels}")
    return table.cast(ROWS_SCHEMA), dataclasses.replace(recipe, classes=classes[: recipe.labels])


def _refuse_selection(recipe: Recipe) -> None:
    if recipe.images > 0 or recipe.labels is not None:
        raise ShardsError("--images and --labels select from a list of URLs; all rows of a Caffe list file are taken")
    if (recipe.url_col, recipe.label_col) != ("image_url", "label"):
        raise ShardsError("--url_col and --label_col are for a list of URLs; a Caffe list file has no column names")
    if recipe.split != "official":
        raise ShardsError(f"--split {recipe.split} is for a list of URLs; each Caffe list file is one split")


def _add_length(lengths: tuple[int, ...], length: int, name: str) -> tuple[int, ...]:
    if lengths and length < lengths[-1]:
        raise ShardsError(f"--list {name} has {length} rows, but had {lengths[-1]}; rows may only be added at its end")
    return lengths if lengths[-1:] == (length,) else (*lengths, length)


def _permute(seed: int, lengths: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the rows' order; the rows of each growth are permuted among themselves."""
    bounds = itertools.pairwise((0, *lengths))
    return np.concatenate([start + np.random.RandomState(seed).permutation(end - start) for start, end in bounds])


def _number_rows(table: pa.Table, lengths: tuple[int, ...]) -> pa.Table:
    """Convert a table of `CONVERTED_SCHEMA` to `TEXT_LABEL_SCHEMA`."""
    keys = _make_keys(table.column("id").to_pylist(), lengths)
    table = table.append_column("row", pa.array(range(len(table)), pa.int64()))
    return table.append_column("key", pa.array(keys, pa.string())).select(TEXT_LABEL_SCHEMA.names)


def _take(table: pa.Table, order: npt.NDArray[np.int64]) -> pa.Table:
    """Reorder a table, also one whose texts are longer than an Arrow array of type string may be (2 GiB)."""
    largest = max(column.nbytes for column in table.columns)
    if largest < _MAX_BYTES:
        return table.take(pa.array(order))
    fields = [field.with_type(pa.large_string()) if field.type == pa.string() else field for field in table.schema]
    joined = table.cast(pa.schema(fields)).combine_chunks()
    parts = np.array_split(order, 1 + 4 * largest // _MAX_BYTES)
    return pa.concat_tables([joined.take(pa.array(part)).cast(table.schema) for part in parts])


def _make_keys(ids: list[str], lengths: tuple[int, ...]) -> list[str]:
    """Make unique tar keys from ids; the key of an invalid, repeated or missing id contains the row's index.

    The keys of former rows don't depend on rows that were added later.
    """
    cleaned = [re.sub(r"[^A-Za-z0-9_-]", "_", value)[:_KEY_LENGTH] for value in ids]
    taken: set[str] = set()
    keys = [""] * len(ids)
    for start, end in itertools.pairwise((0, *lengths)):
        for row in range(start, end):
            if ids[row] and ids[row] == cleaned[row] and ids[row] not in taken:
                keys[row] = ids[row]
                taken.add(ids[row])
        for row in range(start, end):
            if keys[row]:
                continue
            key = f"{cleaned[row][: _KEY_LENGTH - 20]}-{row}" if ids[row] else f"{row:08d}"
            while key in taken:
                key += f"-{row}"
            keys[row] = key
            taken.add(key)
    return keys
