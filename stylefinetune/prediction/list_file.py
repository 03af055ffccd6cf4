"""Reads the paths and URLs in a column of a list: CSV, Parquet or JSON lines, a part at a time."""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from stylefinetune.errors import UserError
from stylefinetune.prediction.pictures import NoPicture, Picture, picture_at

LIST_KINDS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")  # ends of names; .gz may follow those of text
COLUMNS = ("path", "image_url", "url", "picture", "image", "file", "filename")  # the first one that a list has
_DAMAGE = (OSError, ValueError, EOFError, zlib.error, csv.Error, pa.ArrowException)  # of lists and compressed files
_SEPARATORS = ",;\t"
_ROWS = 4096  # of a Parquet file that are read at a time

_Rows: TypeAlias = Iterator[tuple[str, object]]  # where a row is in its file, for messages, and what it has


def list_kind(path: Path) -> str:
    """Return the end of a list's name without .gz, such as .csv."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def open_list(path: Path, column: str | None) -> Callable[[], Iterator[Picture]]:
    """Return what yields the pictures that `column` of a list names; relative paths are relative to its folder.

    Without `column`, it is the first of COLUMNS that the list has.

    Raises:
        UserError: the list can't be read or has no such column.
    """
    try:
        match list_kind(path):
            case ".parquet":
                names = pq.read_schema(path).names
                read = _read_parquet
            case ".csv" | ".tsv":
                with _open_text(path) as lines:
                    names = next(_table(path, lines), [])
                read = _read_table
            case _:
                with _open_text(path) as lines:
                    row = json.loads(next(lines, "{}"))
                if not isinstance(row, dict):
                    raise UserError(f"{path} doesn't begin with a JSON object; write one on each line")
                names = list(row)
                read = _read_json
    except (*_DAMAGE, TypeError) as error:
        raise UserError(f"{path} can't be read as a list: {_reason(error)}") from error
    if not names:
        raise UserError(f"{path} is empty, or its first line is")
    chosen = _choose(path, column, names)
    return lambda: _pictures(path, read(path, chosen))


def _choose(path: Path, column: str | None, names: list[str]) -> str:
    wanted = COLUMNS if column is None else (column,)
    found = next((name for name in wanted if name in names), None)
    if found is None:
        lacks = f"no column {column}" if column else f"none of the columns {', '.join(COLUMNS)}"
        raise UserError(f"{path} has {lacks}; name one of its columns with --column: {', '.join(names) or 'none'}")
    return found


def _pictures(path: Path, rows: _Rows) -> Iterator[Picture]:
    try:
        for place, location in rows:
            if isinstance(location, str) and location:
                yield picture_at(location, path.parent)
            else:
                yield NoPicture(f"{path}{place}", "names no picture")
    except _DAMAGE as error:
        yield NoPicture(str(path), f"can't be read further: {_reason(error)}")


def _read_parquet(path: Path, column: str) -> _Rows:
    with pq.ParquetFile(path) as file:
        values = (part.column(0).to_pylist() for part in file.iter_batches(_ROWS, columns=[column]))
        for number, value in enumerate(itertools.chain.from_iterable(values)):
            yield f", row {number} (counted from 0)", value


def _read_table(path: Path, column: str) -> _Rows:
    with _open_text(path) as lines:
        rows = _table(path, lines)
        index = next(rows).index(column)
        line = rows.line_num + 1
        for row in rows:
            if row:  # not of an empty line
                yield f":{line}", row[index] if index < len(row) else None
            line = rows.line_num + 1


def _read_json(path: Path, column: str) -> _Rows:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield f":{number}", row.get(column) if isinstance(row, dict) else None


def _table(path: Path, lines: io.TextIOWrapper) -> Any:  # noqa: ANN401 -- the type of csv.reader is private
    """Return the rows of a table; the separator of a .csv is the one that divides its first line most often."""
    if list_kind(path) == ".tsv":
        return csv.reader(lines, delimiter="\t")
    header = lines.readline()
    return csv.reader(itertools.chain([header], lines), delimiter=max(_SEPARATORS, key=header.count))


def _open_text(path: Path) -> io.TextIOWrapper:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
