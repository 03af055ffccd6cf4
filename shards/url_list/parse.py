"""Parses a list into rows: CSV, Parquet, JSON, lines of URLs, or Caffe list files."""

import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow as pa

from shards.config.recipe import Recipe
from shards.errors import ShardsError
from shards.format.caffe_list import ListedPicture, parse_caffe_list
from shards.format.index import LABELS
from shards.url_list.delimited import read_delimited
from shards.url_list.encoding import decompress, to_utf8
from shards.url_list.json_rows import read_json_array, read_json_lines
from shards.url_list.labels import LARGEST_LABEL, UNLABELLED
from shards.url_list.parquet import read_parquet
from shards.url_list.source import Source

ROWS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # index of the row in the list as read, from 0
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_url", pa.string(), nullable=False),  # a local path in a Caffe list file
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("extra", pa.string(), nullable=False),  # all other columns, as a JSON object with sorted keys
    ]
)
SEVERAL_LABELS_SCHEMA = ROWS_SCHEMA.append(LABELS)  # of a list of which a row has a list of labels
TEXT_LABEL_SCHEMA = ROWS_SCHEMA.set(ROWS_SCHEMA.get_field_index("label"), pa.field("label", pa.string()))
_Rows: TypeAlias = Iterator[tuple[int, dict[str, Any]]]  # the number of a row, or of its first line, and its values
_FIRST_LINE = re.compile(rb"\s*([^\r\n]*)")
_CHUNK = 2**20  # bytes
_URL = re.compile(rb"https?://.*", re.IGNORECASE)
_URL_AND_LABEL = re.compile(rb"[^\s,;|]+[\s,;|][\w\s,;|-]*")  # other columns of a URL's line; many URLs have a comma


def parse_list(
    source: Source, url_col: str = "image_url", label_col: str | None = "label", work: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Return the rows of a list of URLs as JSON values by column. The format is detected from the first bytes.

    A text whose first line is a URL has a URL on each line, and the label `UNLABELLED` for all. The rows are read one
    by one. `work` is a folder for temporary files: the text of a list that is compressed or not UTF-8.

    Raises:
        ShardsError: the list is damaged. Most errors are raised when their row is read.
    """
    return (row for _, row in _parse(source, url_col, label_col, work)[1])


def _parse(source: Source, url_col: str, label_col: str | None, work: Path | None) -> tuple[bool, _Rows]:
    """Return whether a list has lines, and its rows with the numbers of their first lines, or their own from 0."""
    name = source.name
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open())
        file = stack.enter_context(decompress(file, name, work, source.max_bytes))
        first = _read_first(file, 4)
        if first == b"PK\x03\x04":
            raise ShardsError(
                f"--list {name}: an Excel or ZIP file; save the table as CSV in UTF-8, or unpack it, and give that"
            )
        if first == b"PAR1":
            has_lines, rows = False, enumerate(read_parquet(file, name))
        else:
            file = stack.enter_context(to_utf8(file, name, work))
            has_lines, rows = _parse_text(file, name, url_col, label_col)
        return has_lines, _close_after(rows, stack.pop_all())


def _parse_text(file: IO[bytes], name: str, url_col: str, label_col: str | None) -> tuple[bool, _Rows]:
    """Return what `_parse` does."""
    line = _read_first_line(file)
    if line.startswith(b"{"):
        return True, read_json_lines(file, name)
    if line.startswith(b"["):
        return False, enumerate(read_json_array(file, name))
    if line.startswith(b"<"):
        raise ShardsError(f"--list {name}: an HTML or XML page, not a list; give the address of the list, or its file")
    if not _URL.fullmatch(line):
        return True, read_delimited(file, name, url_col)
    if _URL_AND_LABEL.fullmatch(line):
        header = f"{url_col},{label_col or 'label'}"
        raise ShardsError(
            f"--list {name}: line 1 has a URL and other columns; put a header before it, such as {header}"
        )
    return True, _read_urls(file, url_col, label_col or "label")


def _read_urls(file: IO[bytes], url_col: str, label_col: str) -> _Rows:
    with io.TextIOWrapper(file, encoding="utf-8") as lines:
        for number, url in enumerate(map(str.strip, lines), start=1):
            if url:
                yield number, {url_col: url, label_col: UNLABELLED}


def _close_after(rows: _Rows, files: contextlib.ExitStack) -> _Rows:
    with files:
        yield from rows


def locate_row(source: Source, row: int, recipe: Recipe, work: Path | None = None) -> str:
    """Return where a row of a list is, for messages: the line of a text file, or the picture of a folder or a dataset.

    The list is read again up to the row. In a Parquet file or a JSON array, it is the row's number.

    Raises:
        ShardsError: the list's file has changed since it was first read.
    """
    source.check_unchanged()
    if source.is_caffe:
        lines = (f"line {each.line} of {source.paths[split]}" for split, each in _read_caffe_lists(source))
        return next(itertools.islice(lines, row, None))
    has_lines, rows = _parse(source, recipe.url_col, recipe.label_col, work)
    number, values = next(itertools.islice(rows, row, None))
    if source.is_folder or source.picture_column:  # its list is made of it
        return values[recipe.url_col]
    return f"line {number}" if has_lines else f"row {number} (counted from 0)"


def parse_caffe_lists(source: Source) -> pa.Table:
    """Return the lines of Caffe list files, "path label", as rows of `TEXT_LABEL_SCHEMA`.

    Raises:
        ShardsError: a line has another form.
    """
    rows: list[dict[str, object]] = []
    for split, picture in _read_caffe_lists(source):
        row = {"row": len(rows), "key": f"{len(rows):08d}", "image_url": picture.path, "split": split}
        rows.append({**row, "label": str(picture.label), "extra": "{}"})
    return pa.Table.from_pylist(rows, TEXT_LABEL_SCHEMA)


def _read_caffe_lists(source: Source) -> Iterator[tuple[str, ListedPicture]]:
    for split in source.parts:
        name = f"--list {split}={source.paths[split]}"
        for picture in parse_caffe_list(source.open(split).read(), name, LARGEST_LABEL + 1):
            yield split, picture


def _read_first(file: IO[bytes], count: int) -> bytes:
    """Return the next bytes of a file, and stay at its position."""
    start = file.tell()
    found = file.read(count)
    file.seek(start)
    return found


def _read_first_line(file: IO[bytes]) -> bytes:
    """Return the first line that is not blank, or its first megabyte, and stay at the file's position."""
    start = file.tell()
    while (chunk := file.read(_CHUNK)).isspace():
        pass
    file.seek(start)
    first = _FIRST_LINE.match(chunk)
    assert first  # it matches an empty text, too
    return first[1].rstrip()
