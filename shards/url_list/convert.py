"""Converts the rows of a list of URLs to text columns, and draws a split for rows that have none."""

import hashlib
import itertools
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from shards.config.recipe import Recipe
from shards.errors import RowError, ShardsError
from shards.format.index import LABELS
from shards.url_list.labels import UNLABELLED
from shards.url_list.provenance import owner_of
from shards.url_list.source import SPLIT_NAME

Row = dict[str, Any]  # JSON values by column
T = TypeVar("T")

CONVERTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "image_url", "split", "label", "extra")])
_LABEL = CONVERTED_SCHEMA.get_field_index("label")
LISTS_SCHEMA = CONVERTED_SCHEMA.set(_LABEL, pa.field("label", pa.list_(pa.string())))
"""The schema of rows of which some have a list of labels."""
_LOCAL_PATH = re.compile(r"[/\\]|\.\w+\s\d+$")  # in what should be a header
_WEB_URL = re.compile("https?://", re.IGNORECASE)
_ANY_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CHUNK_ROWS = 1_000
_SPLIT_COLUMNS = ("_split", "split")
_NO_LABEL = "write one, or remove the row"
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)


def convert_rows(rows: Iterator[Row], name: str, recipe: Recipe) -> Iterator[pa.Table]:
    """Yield the rows, a few at a time, as tables of `CONVERTED_SCHEMA`, or of `LISTS_SCHEMA`.

    `name` is the list's in messages.

    `id` is empty for rows without one. `extra` has all other columns, as a JSON object.

    Raises:
        ShardsError: the list has no rows, lacks a column, or has no URL.
        RowError: a row has an invalid value.
    """
    start = 0
    split_column = None
    has_url = False
    first_url = ""
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        if not start:
            _check_columns(chunk[0], name, recipe)
            split_column = next((column for column in _SPLIT_COLUMNS if column in chunk[0]), None)
        table = _Chunk(chunk, start, recipe).convert(split_column)
        if not has_url:
            urls = table.column("image_url").to_pylist()
            has_url = recipe.local or any(map(_WEB_URL.match, urls))
            first_url = first_url if start else urls[0]
        yield table
        start += len(chunk)
    if not start:
        raise ShardsError(f"--list {name} has no rows")
    if not has_url:
        raise ShardsError(
            f"--list {name}: none of its rows has an http or https URL in the column {recipe.url_col} (the first "
            f"has {first_url[:80]!r}); if these are local files, add --local"
        )


def _check_columns(row: Row, name: str, recipe: Recipe) -> None:
    names = ", ".join(row)[:200]
    if recipe.url_col not in row:
        if recipe.local:
            header = f"{recipe.url_col},{recipe.label_col or 'label'}"
            remedy = (
                "give the name of the column of paths, --url_col NAME; "
                f"if the columns have no names, write a first line such as {header}"
            )
        elif _LOCAL_PATH.search(names):
            remedy = (
                f"for local pictures, write a path and the number of a class on each line, give --list train={name}"
            )
        else:
            remedy = "give the name of the column of URLs, --url_col NAME"
        raise ShardsError(f"--list {name}: no column {recipe.url_col} among {names}; {remedy}")
    if recipe.label_col is not None and recipe.label_col not in row:
        raise ShardsError(
            f"--list {name}: no column {recipe.label_col} among {names}; give the name of the column of labels, "
            "--label_col NAME, or --label_col null for pictures without labels"
        )


class _Chunk:
    """Consecutive rows of a list. Its methods take their columns out of the rows, so that the others remain."""

    def __init__(self, rows: list[Row], start: int, recipe: Recipe) -> None:
        self._rows = rows
        self._start = start  # index of the first row in the list
        self._recipe = recipe

    def convert(self, split_column: str | None) -> pa.Table:
        """Return the rows as a table. Without a `split_column` in the list, the splits are drawn."""
        urls = self._take(self._recipe.url_col, _url_text)
        if self._recipe.local:
            self._check_paths(urls)
        labels, schema = self._take_labels(self._recipe.label_col)
        ids = self._take("id", scalar_text)
        splits = self._take_splits(split_column, urls)
        extras = [self._encode(index, row) for index, row in enumerate(self._rows)]
        columns = {"id": ids, "image_url": urls, "split": splits, "label": labels, "extra": extras}
        return pa.table([self._array(values, schema.field(name)) for name, values in columns.items()], schema)

    def _check_paths(self, paths: list[str]) -> None:
        """Check that these are paths, and that the relative ones stay in the list's folder."""
        for index, path in enumerate(paths):
            if url := _ANY_URL.match(path):
                remedy = "write its path" if url[1].casefold() == "file" else "use two lists"
                raise self._error(index, f"has the URL {path[:80]!r}, but --local is for paths; {remedy}")
            if posixpath.normpath(path).split("/")[0] == "..":
                raise self._error(index, f"has {path[:80]!r}, outside the list's folder; write an absolute path")

    def _take_labels(self, column: str | None) -> tuple[Sequence[str] | Sequence[list[str]], pa.Schema]:
        """Return the label of each row, or a list of each row's labels, and the schema of the rows."""
        if column is None:
            return [UNLABELLED] * len(self._rows), CONVERTED_SCHEMA
        separator = self._recipe.label_separator
        if separator is None and not any(isinstance(row.get(column), list) for row in self._rows):
            labels = self._take(column, scalar_text)
            if "" in labels:
                raise self._error(labels.index(""), f"has no label in the column {column}; {_NO_LABEL}")
            return labels, CONVERTED_SCHEMA
        lists = self._take(column, lambda value: label_list(value, separator))
        for index, names in enumerate(lists):
            if not all(names) or not names:
                found = f"has {'an empty' if names else 'no'} label in the column {column}"
                raise self._error(index, f"{found}; {_NO_LABEL}")
            if LABELS.name in self._rows[index]:
                raise self._error(
                    index, f"has a column labels beside {column}, whose lists are stored by that name; rename it"
                )
        return lists, LISTS_SCHEMA

    def _take_splits(self, column: str | None, urls: list[str]) -> list[str]:
        splits = self._take(column, scalar_text) if column else []
        if self._recipe.split == "by_owner":
            owners = (owner_of(row) or url for row, url in zip(self._rows, urls, strict=True))
            return [draw_split(owner, self._recipe.seed, self._recipe.test_share) for owner in owners]
        for index, split in enumerate(splits):
            if not SPLIT_NAME.fullmatch(split):
                raise self._error(index, f"has the split {split[:60]!r}; use only letters, digits, _ and -")
        if column:
            return splits
        for index, row in enumerate(self._rows):
            if any(each in row for each in _SPLIT_COLUMNS):
                raise self._error(index, "has a split, but the first row has none; give all rows a split, or none")
        return [draw_split(url, self._recipe.seed, self._recipe.test_share) for url in urls]

    def _take(self, column: str, convert: Callable[[Any], T]) -> list[T]:
        values = [row.pop(column, None) for row in self._rows]
        converted: list[T] = []
        try:
            converted.extend(map(convert, values))
        except TypeError as error:
            value = json.dumps(values[len(converted)])[:60]
            raise self._error(len(converted), f"has {value} in the column {column}, {error}") from error
        return converted

    def _encode(self, index: int, row: Row) -> str:
        if "image_url" in row:
            url_col = self._recipe.url_col
            raise self._error(
                index, f"has a column image_url beside {url_col}, which is stored by that name; rename it"
            )
        if not row:
            return "{}"
        try:
            return _ENCODER.encode(row)
        except ValueError:  # a number that JSON can't represent
            return _ENCODER.encode(_without_infinities(row))
        except RecursionError as error:
            raise self._error(index, "has too many arrays or objects in each other") from error

    def _array(self, values: Sequence[str] | Sequence[list[str]], field: pa.Field) -> pa.Array | pa.ChunkedArray:
        try:
            return pa.array(values, field.type)
        except UnicodeEncodeError as error:  # JSON can escape a half of a surrogate pair
            index = next(index for index, texts in enumerate(values) if not _is_utf8("".join(texts)))
            place = "a column" if field.name == "extra" else f"the {field.name}"
            raise self._error(index, f"has half of a surrogate pair in {place}; this is not a character") from error

    def _error(self, index: int, problem: str) -> RowError:
        return RowError(self._start + index, problem)


def _url_text(value: Any) -> str:  # noqa: ANN401 -- any JSON value
    if value is None or isinstance(value, str):
        return value.strip() if value else ""
    raise TypeError("where a URL must be text")


def scalar_text(value: Any) -> str:  # noqa: ANN401 -- any JSON value
    """Return a label, id or split as text of one line: 1 and 1.0 are "1", true is "true", null is empty.

    Raises:
        TypeError: the value is an array or an object.
    """
    if isinstance(value, str):
        is_line = value.isprintable()  # saves time: all line breaks are unprintable
        return value.strip() if is_line else " ".join(filter(None, map(str.strip, value.splitlines())))
    if isinstance(value, float):
        value = int(value) if value.is_integer() else _without_infinities(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise TypeError("where text or a number is expected")


def label_list(value: Any, separator: str | None) -> list[str]:  # noqa: ANN401 -- any JSON value
    """Return a row's labels as texts: the values of a list, the parts of a text, or the only label.

    Parts of a text without anything between two separators are no labels.

    Raises:
        TypeError: the value, or one in the list, is neither text nor a number.
    """
    if isinstance(value, list):
        return [scalar_text(each) for each in value]
    text = scalar_text(value)
    parts = [text] if separator is None else text.split(separator)
    return list(filter(None, map(str.strip, parts)))


def _without_infinities(value: Any) -> Any:  # noqa: ANN401 -- any JSON value
    """Return a JSON value with null for NaN and infinity."""
    if isinstance(value, dict):
        return {name: _without_infinities(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_infinities(each) for each in value]
    return None if isinstance(value, float) and not -float("inf") < value < float("inf") else value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def draw_split(owner: str, seed: int, test_share: float) -> str:
    """Draw a split from the seed and a row's owner or URL alone, so that it doesn't depend on the other rows."""
    draw = int.from_bytes(hashlib.sha256(f"{seed} {owner}".encode()).digest()[:8], "big")
    return "test" if draw < test_share * 2**64 else "train"
