"""Reads the rows of a CSV or TSV list, whose separator it detects."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from shards.errors import ShardsError

_SEPARATORS = (",", "\t", ";", "|")
_EXCEL_SEPARATOR = re.compile(rb'"?sep=([^"\w\s]|\t)"?\r?\n', re.IGNORECASE)  # Excel's first line


def read_delimited(body: bytes, name: str, url_col: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a UTF-8 text with a header, as texts by column.

    The separator is the one of a first line sep=X; or else the one that gives the header a column `url_col`, or that
    gives it most columns. Trailing columns without a title are ignored if they are empty. An untitled first column is
    the id.

    Raises:
        ShardsError: a line is invalid, or the header has a name twice.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(body)))  # the default is 128 KB
    excel = _EXCEL_SEPARATOR.match(body)
    skipped = excel.end() if excel else 0
    separators = (excel[1].decode(),) if excel else _SEPARATORS
    headers = {separator: _read_header(body[skipped:], separator) for separator in separators}
    separator = max(separators, key=lambda each: (url_col in headers[each], len(headers[each])))
    header = headers[separator]
    if len(set(header)) < len(header):
        raise ShardsError(f"--list {name}: two columns have the same name in its header {','.join(header)[:200]}")
    return _read_records(_open(body[skipped:], separator), header, name, lines_before=1 if excel else 0)


def _open(body: bytes, separator: str) -> Any:  # noqa: ANN401 -- the type of csv.reader has no public name
    text = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8", newline="")
    return csv.reader(text, delimiter=separator, strict=True)


def _read_header(body: bytes, separator: str) -> list[str]:
    """Return the titles of the columns, without untitled columns at the end; empty if the first line is invalid."""
    try:
        titles = [title.strip() for title in next(filter(any, _open(body, separator)), [])]
    except csv.Error:
        return []
    while titles and not titles[-1]:
        titles.pop()
    return ["id", *titles[1:]] if titles[:1] == [""] else titles


def _read_records(reader: Any, header: list[str], name: str, lines_before: int) -> Iterator[dict[str, Any]]:  # noqa: ANN401 -- as _open
    try:
        records: Iterator[list[str]] = filter(any, reader)  # without blank lines, also those of separators only
        next(records, None)  # the header
        for fields in records:
            if len(fields) != len(header):
                while len(fields) > len(header) and not fields[-1]:
                    fields.pop()
                if len(fields) != len(header):
                    raise ShardsError(
                        f"--list {name}, line {lines_before + reader.line_num}: {len(fields)} columns, "
                        f"but the header has {len(header)}"
                    )
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise ShardsError(f"--list {name}, line {lines_before + reader.line_num}: {error}") from error
