"""Parses a list into a table: CSV, Parquet, JSON lines or Caffe list files."""

import codecs
import csv
import gzip
import io
import re
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from shards.errors import ShardsError
from shards.url_list.source import Source

ROWS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # the row's place in the list as read, from 0
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_url", pa.string(), nullable=False),  # or, from a Caffe list file, a local path
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("extra", pa.string(), nullable=False),  # all further columns, as a JSON object with sorted keys
    ]
)


LARGEST_LABEL = 99_999  # a class for each label below it, too


INTEGER = re.compile(r"\d{1,9}")


def is_label(text: str) -> bool:
    return bool(INTEGER.fullmatch(text)) and int(text) <= LARGEST_LABEL


def read_caffe_lists(source: Source) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for split, body in source.parts.items():
        name = f"{split}={source.paths[split]}"
        for number, line in enumerate(_text(body, name).splitlines(), start=1):
            path, space, label = line.strip().rpartition(" ")  # the last space: a path may hold some
            if not line.strip():
                continue
            if not space or not is_label(label):
                raise ShardsError(
                    f"--list {name}, line {number}: {line[:80]!r} isn't a path, a space "
                    f"and a label from 0 to {LARGEST_LABEL:,}"
                )
            row = len(rows)
            rows.append({"row": row, "key": f"{row:08d}", "image_url": path.rstrip(), "split": split, "label": label})
    return pa.Table.from_pylist([row | {"extra": "{}"} for row in rows], text_label_schema())


def text_label_schema() -> pa.Schema:
    return ROWS_SCHEMA.set(ROWS_SCHEMA.get_field_index("label"), pa.field("label", pa.string()))


def parse_list(source: Source) -> pa.Table:
    """Tells the format from the first bytes, so that a list's URL or file may be called anything."""
    body = source.parts[""]
    try:
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        body = body.removeprefix(codecs.BOM_UTF8)
        if body.startswith(b"PAR1"):
            return pq.read_table(pa.BufferReader(body))
        if body.lstrip().startswith(b"{"):
            whole = pyarrow.json.ReadOptions(block_size=min(len(body) + 1, 2**31 - 1))  # a row must fit
            return pyarrow.json.read_json(pa.BufferReader(body), whole)
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise ShardsError(f"--list {source.name} can't be read: {str(error).splitlines()[0]}") from error
    return _parse_csv(_text(body, source.name), source.name)


def _parse_csv(text: str, name: str) -> pa.Table:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # 128 KB unless set
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[list[str]] = []
    header: list[str] = []
    try:
        header = [column.strip() or ("id" if not place else "") for place, column in enumerate(next(reader, []))]
        columns = [[] for _ in header]
        for fields in reader:
            if len(fields) != len(header):
                if not fields:
                    continue
                raise ShardsError(
                    f"--list {name}, line {reader.line_num}: {len(fields)} columns, where the header has {len(header)}"
                )
            for column, value in zip(columns, fields, strict=True):
                column.append(value)
    except csv.Error as error:
        raise ShardsError(f"--list {name}, line {reader.line_num}: {error}") from error
    if len(set(header)) < len(header):
        raise ShardsError(f"--list {name}: two columns have one name in its header {','.join(header)[:200]}")
    return pa.table({title: pa.array(column, pa.string()) for title, column in zip(header, columns, strict=True)})


def _text(body: bytes, name: str) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ShardsError(f"--list {name} isn't UTF-8 text at byte {error.start}") from error
