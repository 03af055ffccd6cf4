"""Reads the rows of a CSV or TSV list, whose separator it detects."""

import csv
import io
import re
from collections.abc import Iterator
from typing import IO, Any

from shards.counted import counted
from shards.errors import ShardsError

_SEPARATORS = (",", "\t", ";", "|")
_MAX_FIELD = 2**30  # characters
_UNTITLED = "Unnamed: 0"  # as pandas calls the first column, where pandas writes the numbers of the rows
_UNCLOSED = "unexpected end of data"  # the csv module's message at the end of the file
_EXCEL_SEPARATOR = re.compile(rb'"?sep=([^"\w\s]|\t)"?\r?\n', re.IGNORECASE)  # Excel's first line


def read_delimited(file: IO[bytes], name: str, url_col: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the rows of a UTF-8 text with a header, each with the number of its first line, as texts by column.

    It begins at the file's position.

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
    with_numbers = _number_records(_open(text, start, separator), f"--list {name}, line", 2 if excel else 1)
    return _read_records(text, with_numbers, header, f"--list {name}, line")


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


def _number_records(
    reader: Any,  # noqa: ANN401 -- as _open
    place: str,
    start: int,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that are not blank or only separators, each with the number of its first line."""
    first = start
    try:
        for fields in reader:
            if any(fields):
                yield first, fields
            first = start + reader.line_num
    except csv.Error as error:
        reason = "a double quote is not closed" if _UNCLOSED in str(error) else str(error)
        raise ShardsError(f"{place} {first}: {reason}") from error


def _read_records(
    text: io.TextIOWrapper, records: Iterator[tuple[int, list[str]]], header: list[str], place: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    with text:
        next(records, None)  # the header
        for line, fields in records:
            while len(fields) > len(header) and not fields[-1]:
                fields.pop()
            if len(fields) != len(header):
                has_more = len(fields) > len(header)
                remedy = "put values with the separator in double quotes" if has_more else "add the missing ones"
                raise ShardsError(
                    f"{place} {line}: {counted(len(fields), 'column')}, but the header has {len(header)}; {remedy}"
                )
            yield line, dict(zip(header, fields, strict=True))
