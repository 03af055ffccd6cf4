"""Writes and reads Parquet files of many rows, a few of them at a time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP_ROWS = 16_384  # smallest row group that is written, except the last
_PART_ROWS = 16_384  # that are read together


def write_parts(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables to one Parquet file, with only a few of them in memory at a time."""
    with pq.ParquetWriter(path, schema) as writer:
        group: list[pa.Table] = []
        for part in parts:
            group.append(part.cast(schema))
            if sum(map(len, group)) >= _GROUP_ROWS:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))


def read_parts(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file, or some of their columns, with only a few of them in memory at a time.

    Raises:
        OSError, ValueError, KeyError, pa.ArrowException: the file can't be read, or lacks a column.
    """
    with pq.ParquetFile(path) as file:
        # One thread: reading ahead would hold more rows in memory.
        for batch in file.iter_batches(_PART_ROWS, columns=columns and list(columns), use_threads=False):
            table = pa.Table.from_batches([batch])
            yield table.select(list(columns)) if columns else table
