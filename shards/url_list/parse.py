"""Parses a list into a table: CSV, Parquet, JSON lines or Caffe list files."""

import codecs
import csv
import gzip
import io

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from shards.errors import ShardsError
from shards.url_list.labels import LARGEST_LABEL, is_label
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


def parse_list(source: Source) -> pa.Table:
    """Return the columns of a list of URLs, whose format is detected from the first bytes.

    Raises:
        ShardsError: the list is damaged.
    """
    body = source.parts[""]
    try:
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        body = body.removeprefix(codecs.BOM_UTF8)
        if body.startswith(b"PAR1"):
            return pq.read_table(pa.BufferReader(body))
        if body.lstrip().startswith(b"{"):
            options = pyarrow.json.ReadOptions(block_size=min(len(body) + 1, 2**31 - 1))  # a row must fit in a block
            return pyarrow.json.read_json(pa.BufferReader(body), options)
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise ShardsError(f"--list {source.name} can't be read: {str(error).splitlines()[0]}") from error
    return _parse_csv(_decode(body, source.name), source.name)


def parse_caffe_lists(source: Source) -> pa.Table:
    """Return the lines of Caffe list files, "path label", as rows of `TEXT_LABEL_SCHEMA`.

    Raises:
        ShardsError: a line has another form.
    """
    rows: list[dict[str, object]] = []
    for split, body in source.parts.items():
        name = f"{split}={source.paths[split]}"
        for number, line in enumerate(_decode(body, name).splitlines(), start=1):
            if not line.strip():
                continue
            path, space, label = line.strip().rpartition(" ")  # the last space: a path may contain spaces
            if not space or not is_label(label):
                raise ShardsError(
                    f"--list {name}, line {number}: {line[:80]!r} isn't a path, a space "
                    f"and a label from 0 to {LARGEST_LABEL:,}"
                )
            row = {"row": len(rows), "key": f"{len(rows):08d}", "image_url": path.rstrip(), "split": split}
            rows.append({**row, "label": label, "extra": "{}"})
    return pa.Table.from_pylist(rows, TEXT_LABEL_SCHEMA)


def _parse_csv(text: str, name: str) -> pa.Table:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # the default is 128 KB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [title.strip() or ("" if index else "id") for index, title in enumerate(next(reader, []))]
        columns: list[list[str]] = [[] for _ in header]
        for fields in filter(None, reader):
            if len(fields) != len(header):
                raise ShardsError(
                    f"--list {name}, line {reader.line_num}: {len(fields)} columns, but the header has {len(header)}"
                )
            for column, value in zip(columns, fields, strict=True):
                column.append(value)
    except csv.Error as error:
        raise ShardsError(f"--list {name}, line {reader.line_num}: {error}") from error
    if len(set(header)) < len(header):
        raise ShardsError(f"--list {name}: two columns have the same name in its header {','.join(header)[:200]}")
    return pa.table({title: pa.array(column, pa.string()) for title, column in zip(header, columns, strict=True)})


def _decode(body: bytes, name: str) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ShardsError(f"--list {name} isn't UTF-8 text at byte {error.start}") from error
