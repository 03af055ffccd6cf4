"""Selects, splits and orders the rows of a list, reproducibly."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.config.recipe import Recipe
from shards.errors import RowError, ShardsError
from shards.format.index import LABELS
from shards.url_list.convert import CONVERTED_SCHEMA, convert_rows
from shards.url_list.flickr_style import FLICKR_STYLE_CLASSES, FLICKR_STYLE_SHA256
from shards.url_list.labels import LabelTexts, RowLabels, encode_labels
from shards.url_list.parse import ROWS_SCHEMA, SEVERAL_LABELS_SCHEMA, locate_row, parse_caffe_lists, parse_list
from shards.url_list.reorder import RowStore
from shards.url_list.source import Source

_STORED_SCHEMA = CONVERTED_SCHEMA.remove(CONVERTED_SCHEMA.get_field_index("label"))
_KEY_LENGTH = 80
_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{_KEY_LENGTH}}}")


def select_rows(source: Source, recipe: Recipe, work: Path | None = None) -> tuple[pa.RecordBatchReader, Recipe]:
    """Parse a list, and select, split and label its rows as the recipe says.

    The order and the selection are those of Caffe's assemble_data.py: NumPy's legacy permutation of the whole list,
    then the rows below `labels`, then the first `images`. All rows of Caffe list files are taken, in their own order.

    If the list has grown, its former rows keep their order and keys. The new rows are permuted among themselves, by the
    same seed, and follow.

    All rows are read at once, into a temporary file in `work`. The memory that this takes is about 30 bytes a row, and
    200 more if some rows have ids that can't be keys.

    Returns:
        The rows in their seeded order, to be read once, and the recipe with the class names and the list's length.
        They have the columns of `ROWS_SCHEMA`, or of `SEVERAL_LABELS_SCHEMA`.

    Raises:
        ShardsError: the list is damaged, lacks a column, has an invalid value, or has become shorter.
    """
    try:
        return _select_rows(source, recipe, work)
    except RowError as error:
        place = locate_row(source, error.row, recipe, work)
        raise ShardsError(f"--list {source.name}: {place} {error.problem}") from error


def _select_rows(source: Source, recipe: Recipe, work: Path | None) -> tuple[pa.RecordBatchReader, Recipe]:
    if source.is_caffe:
        _refuse_selection(recipe)
        table = parse_caffe_lists(source)
        texts = LabelTexts()
        texts.append(table.column("label").to_pylist())
        labels, recipe = _number_labels(texts, source, recipe)
        table = table.set_column(table.column_names.index("label"), "label", pa.array(labels.label))
        return table.cast(ROWS_SCHEMA).to_reader(), recipe
    if source.is_folder and recipe.split != "official":
        raise ShardsError(f"--split {recipe.split} needs a list with a column owner; --list {source.name} is a folder")
    if source.is_folder and recipe.label_separator is not None:
        raise ShardsError(
            f"--label_separator is for a list with a column of labels; --list {source.name} is a folder, whose "
            "pictures have the label of their folder"
        )
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(RowStore(_STORED_SCHEMA, work))
        rows = parse_list(source, recipe.url_col, recipe.label_col, work)
        texts, ids = _store_rows(convert_rows(rows, source.name, recipe), store)
        source.check_unchanged()
        recipe = dataclasses.replace(recipe, list_lengths=_add_length(recipe.list_lengths, len(store), source.name))
        labels, numbered = _number_labels(texts, source, recipe)
        order = _select(labels.label, numbered)
        if not len(order):
            raise ShardsError(f"--list {source.name}: no row has a label below --labels {recipe.labels}")
        if source.picture_column:
            order = np.sort(order)  # in its own order, a Parquet file is read from front to back
        keys = make_keys(_read_ids(store), recipe.list_lengths) if ids.need_changes else None
        selected = _read_selected(store, order, labels, keys, stack.pop_all())
    return pa.RecordBatchReader.from_batches(_schema_of(labels), selected), numbered


class _Ids:
    """What decides whether the ids of a list's rows can be their keys."""

    def __init__(self) -> None:
        self._are_empty = True
        self._are_valid = True
        self._hashes: list[npt.NDArray[np.int64]] = []

    def append(self, ids: pa.ChunkedArray) -> None:
        """Add the ids of further rows."""
        texts: list[str] = ids.to_pylist()
        self._are_empty = self._are_empty and not any(texts)
        self._are_valid = self._are_valid and all(map(_KEY.fullmatch, texts))
        if self._are_valid:
            self._hashes.append(np.fromiter(map(hash, texts), np.int64, len(texts)))
        else:
            self._hashes.clear()

    @property
    def need_changes(self) -> bool:
        """Whether some ids are missing or invalid, or may be equal, while others are not."""
        if self._are_empty or not self._are_valid:
            return not self._are_empty
        hashes = np.sort(np.concatenate(self._hashes))
        return bool((hashes[1:] == hashes[:-1]).any())


def _store_rows(tables: Iterable[pa.Table], store: RowStore) -> tuple[LabelTexts, _Ids]:
    texts, ids = LabelTexts(), _Ids()
    for table in tables:
        store.append(table.drop_columns(["label"]))
        append = texts.append_lists if pa.types.is_list(table.schema.field("label").type) else texts.append
        append(table.column("label").to_pylist())
        ids.append(table.column("id"))
    store.finish()
    return texts, ids


def _number_labels(texts: LabelTexts, source: Source, recipe: Recipe) -> tuple[RowLabels, Recipe]:
    """Return the labels' numbers, and the recipe with the names of the classes.

    Raises:
        RowError: a label is not among the classes.
        ShardsError: --labels is given for rows with several labels.
    """
    if texts.are_lists and recipe.labels is not None:
        raise ShardsError("--labels selects rows by their only label, and rows of this list have several; remove it")
    classes = recipe.classes or (FLICKR_STYLE_CLASSES if source.sha256 == FLICKR_STYLE_SHA256 else None)
    labels, classes = encode_labels(texts, classes)
    return labels, dataclasses.replace(recipe, classes=classes[: recipe.labels], several_labels=texts.are_lists)


def _select(labels: npt.NDArray[np.int32], recipe: Recipe) -> npt.NDArray[np.int64]:
    """Return the indices of the selected rows, in their seeded order."""
    order = _permute(recipe.seed, recipe.list_lengths)
    if recipe.labels is not None:
        order = order[labels[order] < recipe.labels]
    return order[: recipe.images] if recipe.images > 0 else order


def _permute(seed: int, lengths: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the rows' order; the rows of each growth are permuted among themselves."""
    order = np.arange(lengths[-1])
    for start, end in itertools.pairwise((0, *lengths)):
        np.random.RandomState(seed).shuffle(order[start:end])
    return order


def _read_ids(store: RowStore) -> list[str]:
    return [text for batch in store.read() for text in batch.column("id").to_pylist()]


def _read_selected(
    store: RowStore,
    order: npt.NDArray[np.int64],
    labels: RowLabels,
    keys: Sequence[str] | None,
    resources: contextlib.ExitStack,
) -> Iterator[pa.RecordBatch]:
    """Yield the selected rows. Without `keys`, a key is the row's id, or its index if it has none."""
    start, schema = 0, _schema_of(labels)
    with resources:
        for table in store.take(order):
            rows = order[start : start + len(table)]
            start += len(table)
            if keys is None:
                ids = table.column("id").to_pylist()
                names = [name or f"{row:08d}" for name, row in zip(ids, rows.tolist(), strict=True)]
            else:
                names = [keys[row] for row in rows]
            columns = {name: table.column(name) for name in ("image_url", "split", "extra")}
            columns |= {"row": pa.array(rows), "key": pa.array(names, pa.string())}
            columns["label"] = pa.array(labels.label[rows])
            if labels.several is not None:
                columns[LABELS.name] = labels.several.take(rows).to_arrow()
            yield from pa.table([columns[name] for name in schema.names], schema).to_batches()


def _schema_of(labels: RowLabels) -> pa.Schema:
    return ROWS_SCHEMA if labels.several is None else SEVERAL_LABELS_SCHEMA


def _refuse_selection(recipe: Recipe) -> None:
    if recipe.images > 0 or recipe.labels is not None:
        raise ShardsError("--images and --labels select from a list of URLs; all rows of a Caffe list file are taken")
    if (recipe.url_col, recipe.label_col) != ("image_url", "label"):
        raise ShardsError("--url_col and --label_col are for a list of URLs; a Caffe list file has no column names")
    if recipe.split != "official":
        raise ShardsError(f"--split {recipe.split} is for a list of URLs; each Caffe list file is one split")
    if recipe.label_separator is not None:
        raise ShardsError("--label_separator is for a list of URLs; a line of a Caffe list file has one label")


def _add_length(lengths: tuple[int, ...], length: int, name: str) -> tuple[int, ...]:
    if lengths and length < lengths[-1]:
        raise ShardsError(f"--list {name} has {length} rows, but had {lengths[-1]}; rows may only be added at its end")
    return lengths if lengths[-1:] == (length,) else (*lengths, length)


def make_keys(ids: list[str], lengths: tuple[int, ...]) -> list[str]:
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
