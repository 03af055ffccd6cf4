"""Finds the columns of a list that have the pictures and the labels, from the list's beginning."""

import csv
import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stylefinetune.errors import UserError

_URL_NAMES = ("image_url", "url", "image", "path", "image_path", "file", "filename", "file_name", "filepath", "img")
_LABEL_NAMES = ("label", "labels", "class", "category", "target", "style", "tag", "tags", "caption")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_DELIMITERS = ",\t;|"
_EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # Excel's first line
_BEGINNING = 64 * 1024  # characters


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a list."""

    url: str
    label: str
    is_local: bool  # the pictures are local files
    several_labels: bool  # a row has a list of labels


def find_columns(path: Path, url_col: str | None, label_col: str | None) -> Columns:
    """Return the columns of a list in CSV, Parquet or JSON; given names are taken.

    Raises:
        UserError: it can't be read, or the columns aren't found.
    """
    try:
        row = _first_row(path)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, StopIteration, pa.ArrowException, csv.Error) as error:
        raise UserError(
            f"{path} is no list of pictures that init can read: {str(error) or 'it has no rows'}"
        ) from error
    url = _choose(path, row, "--url_col", url_col, _URL_NAMES)
    label = _choose(path, row, "--label_col", label_col, _LABEL_NAMES)
    is_local = not re.match(r"https?://", str(row[url]).strip(), re.IGNORECASE)
    return Columns(url, label, is_local, isinstance(row[label], list))


def _first_row(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        return next(pq.ParquetFile(path).iter_batches(1)).to_pylist()[0]
    if magic.startswith(_COMPRESSED):
        raise ValueError("it is compressed; assemble it first, then give the folder of shards")
    with path.open(encoding="utf-8-sig", newline="") as file:
        beginning = file.read(_BEGINNING).lstrip()
    excel = _EXCEL_SEPARATOR.match(beginning)
    beginning = beginning[excel.end() :] if excel else beginning
    first = beginning.partition("\n")[0].strip()
    if beginning.startswith("{"):
        return json.loads(first)
    if beginning.startswith("["):
        return json.JSONDecoder().raw_decode(beginning[1:].lstrip())[0]
    if re.match(r"https?://\S+$", first):
        raise ValueError("it is a text of URLs without labels, from which a classifier has nothing to learn")
    if re.search(r"\S \d+$", first):
        raise ValueError(
            f"it looks like a Caffe list; assemble it first (shards assemble --list train={path} --list test=FILE "
            "--classes FILE --out DIR), then give DIR"
        )
    delimiter = excel[1] if excel else max(_DELIMITERS, key=first.count)
    return next(csv.DictReader(beginning.splitlines(keepends=True), delimiter=delimiter))


def _choose(path: Path, row: dict[str, Any], flag: str, given: str | None, names: Iterable[str]) -> str:
    wanted = [given] if given else names
    by_name = row if given else {name.lower(): name for name in reversed(row)}
    found = next((by_name[name] if not given else name for name in wanted if name in by_name), None)
    if found is None:
        missing = f"no column {given}" if given else f"no column called {' or '.join([*names][:2])}"
        raise UserError(f"{path} has {missing}; name one of {', '.join(row)} with {flag}")
    return found
