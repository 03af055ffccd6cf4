"""Selects, splits and orders the rows of a list, reproducibly."""

import dataclasses
import hashlib
import itertools
import json
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shards.config.recipe import Recipe
from shards.errors import ShardsError
from shards.url_list.labels import encode_labels
from shards.url_list.parse import ROWS_SCHEMA, TEXT_LABEL_SCHEMA, parse_caffe_lists, parse_list
from shards.url_list.provenance import owner_of
from shards.url_list.source import SPLIT_NAME, Source

_SPLIT_COLUMNS = ("_split", "split")
_KEY_LENGTH = 80


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
        table = parse_list(source)
        recipe = dataclasses.replace(recipe, list_lengths=_add_length(recipe.list_lengths, len(table), source.name))
        table = _convert_columns(table, source.name, recipe)
    labels, classes = encode_labels(table.column("label").to_pylist(), source, recipe.classes or None)
    table = table.set_column(table.column_names.index("label"), "label", pa.array(labels, pa.int32()))
    if not source.is_local:
        table = table.take(pa.array(_permute(recipe.seed, recipe.list_lengths)))
    if recipe.labels is not None:
        table = table.filter(pc.field("label") < recipe.labels)
    if recipe.images > 0:
        table = table.slice(0, recipe.images)
    if not len(table):
        raise ShardsError(f"--list {source.name}: no row is left to download")
    return table.cast(ROWS_SCHEMA), dataclasses.replace(recipe, classes=classes[: recipe.labels])


def _refuse_selection(recipe: Recipe) -> None:
    if recipe.images > 0 or recipe.labels is not None:
        raise ShardsError("--images and --labels select from a list of URLs; all rows of a Caffe list file are taken")
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


def _convert_columns(table: pa.Table, name: str, recipe: Recipe) -> pa.Table:
    """Convert a list's columns to `TEXT_LABEL_SCHEMA`."""
    names = table.column_names
    for needed in ("image_url", "label"):
        if needed not in names:
            raise ShardsError(f"--list {name}: no column {needed} among {', '.join(names)[:200]}")
    urls, labels = _texts(table, "image_url"), _texts(table, "label")
    if "" in labels:
        raise ShardsError(f"--list {name}: row {labels.index('')} has no label")
    split_column = next((column for column in _SPLIT_COLUMNS if column in names), None)
    others = table.select([column for column in names if column not in {"id", "image_url", "label", split_column}])
    extras = others.to_pylist()
    if recipe.split == "by_owner":
        splits = [_draw_split(owner_of(extra) or url, recipe) for extra, url in zip(extras, urls, strict=True)]
    else:
        splits = _texts(table, split_column) if split_column else [_draw_split(url, recipe) for url in urls]
    for row, split in enumerate(splits):
        if not SPLIT_NAME.fullmatch(split):
            raise ShardsError(
                f"--list {name}: row {row} has the split {split[:60]!r}; use only letters, digits, _ and -"
            )
    columns = {
        "row": range(len(urls)),
        "key": _make_keys(_texts(table, "id") if "id" in names else [""] * len(urls), recipe.list_lengths),
        "image_url": urls,
        "split": splits,
        "label": labels,
        "extra": [json.dumps(extra, sort_keys=True, ensure_ascii=False, default=str) for extra in extras],
    }
    return pa.table(columns, TEXT_LABEL_SCHEMA)


def _texts(table: pa.Table, column: str) -> list[str]:
    return ["" if value is None else str(value).strip() for value in table.column(column).to_pylist()]


def _draw_split(owner: str, recipe: Recipe) -> str:
    """Draw a split from the seed and a row's owner or URL alone, so that it doesn't depend on the other rows."""
    draw = int.from_bytes(hashlib.sha256(f"{recipe.seed} {owner}".encode()).digest()[:8], "big")
    return "test" if draw < recipe.test_share * 2**64 else "train"


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
