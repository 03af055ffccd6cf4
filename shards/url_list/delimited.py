"""Reads the rows of a CSV or TSV list, whose separator it detects."""

import csv
import io
import re
from collections.abc import Iterator
from typing import IO, Any

from shards.errors import ShardsError

_SEPARATORS = (",", "\t", ";", "|")
_MAX_FIELD = 2**30  # characters
_UNTITLED = "Unnamed: 0"  # as pandas calls the first column, where pandas writes the numbers of the rows
_EXCEL_SEPARATOR = re.compile(rb'"?sep=([^"\w\s]|\t)"?\r?\n', re.IGNORECASE)  # Excel's first line


def read_delimited(file: IO[bytes], name: str, url_col: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a UTF-8 text with a header, as texts by column; it begins at the file's position.

    The separator is the one of a first line sep=X; or else the one that gives the header a column `url_col`, or that
    gives it most columns. Trailing columns without a title are ignored if they are empty. An untitled first column is
    the id, unless another column is.

    Raises:
        ShardsError: a line is invalid, or the header has a name twice.
    """
    csv.field_size_limit(_MAX_FIELD)  # the default is 128 KB
    start = file.tell()
    excel = _EXCEL_SEPARATOR.match(file.read(16))
    start += excel.end() if excel else 0
    separators = (excel[1].decode(),) if excel else _SEPARATORS
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    headers = {separator: _read_header(text, start, separator) for separator in separators}
    separator = max(separators, key=lambda each: (url_col in headers[each], len(headers[each])))
    header = headers[separator]
    if len(set(header)) < len(header):
        raise ShardsError(f"--list {name}: two columns have the same name in its header {','.join(header)[:200]}")
    return _read_records(text, _open(text, start, separator), header, f"--list {name}, line", 1 if excel else 0)


def _open(text: io.TextIOWrapper, start: int, separator: str) -> Any:  # noqa: ANN401 -- csv.reader's type has no name
    text.seek(start)
    return csv.reader(text, delimiter=separator, strict=True)


def _read_header(text: io.TextIOWrapper, start: int, separator: str) -> list[str]:
    """Return the titles of the columns, without untitled columns at the end; empty if the first line is invalid."""
    try:
        titles = [title.strip() for title in next(filter(any, _open(text, start, separator)), [])]
    except csv.Error:
        return []
    while titles and not titles[-1]:
        titles.pop()
    if titles[:1] != [""]:
        return titles
    return [_UNTITLED if "id" in titles else "id", *titles[1:]]


def _read_records(
    text: io.TextIOWrapper,
    reader: Any,  # noqa: ANN401 -- as _open
    header: list[str],
    place: str,
    lines_before: int,
) -> Iterator[dict[str, Any]]:
    with text:
        try:
            records: Iterator[list[str]] = filter(any, reader)  # without blank lines, also those of separators only
            next(records, None)  # the header
            for fields in records:
                if len(fields) != len(header):
                    while len(fields) > len(header) and not fields[-1]:
                        fields.pop()
                    if len(fields) != len(header):
                        raise ShardsError(
                            f"{place} {lines_before + reader.line_num}: {len(fields)} columns, "
                            f"but the header has {len(header)}"
                        )
                yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise ShardsError(f"{place} {lines_before + reader.line_num}: {error}") from error
