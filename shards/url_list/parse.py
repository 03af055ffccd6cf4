"""Parses a list into rows: CSV, Parquet, JSON, lines of URLs, or Caffe list files."""

import io
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from shards.errors import ShardsError
from shards.format.caffe_list import parse_caffe_list
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
TEXT_LABEL_SCHEMA = ROWS_SCHEMA.set(ROWS_SCHEMA.get_field_index("label"), pa.field("label", pa.string()))
_FIRST_LINE = re.compile(rb"\s*([^\r\n]*)")
_URL = re.compile(rb"https?://.*", re.IGNORECASE)
_URL_AND_LABEL = re.compile(rb"[^\s,;|]+[\s,;|][\w\s,;|-]*")  # other columns of a URL's line; many URLs have a comma


def parse_list(source: Source, url_col: str = "image_url", label_col: str | None = "label") -> Iterator[dict[str, Any]]:
    """Return the rows of a list of URLs as JSON values by column. The format is detected from the first bytes.

    A text whose first line is a URL has a URL on each line, and the label `UNLABELLED` for all.

    Raises:
        ShardsError: the list is damaged. Most errors are raised when their row is read.
    """
    name, body = source.name, decompress(source.parts[""], source.name)
    if body.startswith(b"PAR1"):
        return read_parquet(body, name)
    body = to_utf8(body, name)
    first = _FIRST_LINE.match(body)
    assert first  # it matches an empty text, too
    line = first[1].rstrip()
    if line.startswith(b"{"):
        return read_json_lines(body, name)
    if line.startswith(b"["):
        return read_json_array(body, name)
    if not _URL.fullmatch(line):
        return read_delimited(body, name, url_col)
    if _URL_AND_LABEL.fullmatch(line):
        header = f"{url_col},{label_col or 'label'}"
        raise ShardsError(
            f"--list {name}: line 1 has a URL and other columns; put a header before it, such as {header}"
        )
    urls = filter(None, map(str.strip, _lines(body)))
    return ({url_col: url, label_col or "label": UNLABELLED} for url in urls)


def parse_caffe_lists(source: Source) -> pa.Table:
    """Return the lines of Caffe list files, "path label", as rows of `TEXT_LABEL_SCHEMA`.

    Raises:
        ShardsError: a line has another form.
    """
    rows: list[dict[str, object]] = []
    for split, body in source.parts.items():
        for picture in parse_caffe_list(body, f"--list {split}={source.paths[split]}", LARGEST_LABEL + 1):
            row = {"row": len(rows), "key": f"{len(rows):08d}", "image_url": picture.path, "split": split}
            rows.append({**row, "label": str(picture.label), "extra": "{}"})
    return pa.Table.from_pylist(rows, TEXT_LABEL_SCHEMA)


def _lines(body: bytes) -> Iterator[str]:
    return iter(io.TextIOWrapper(io.BytesIO(body), encoding="utf-8"))
