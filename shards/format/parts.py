"""Writes and reads Parquet files of many rows, a few of them at a time."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
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


def take_rows(path: Path, positions: npt.NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    """Return some columns of the rows at these positions, which ascend; only the row groups that have them are read.

    Raises:
        OSError, ValueError, KeyError, pa.ArrowException: the file can't be read, or lacks a column.
    """
    names = list(columns)
    with pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        starts = np.cumsum([0, *counts])
        bounds = np.searchsorted(positions, starts).tolist()
        parts = [file.schema_arrow.empty_table().select(names)]
        for group, (first, last) in enumerate(itertools.pairwise(bounds)):
            if first < last:
                rows = file.read_row_group(group, names).select(names)
                parts.append(rows.take(pa.array(positions[first:last] - starts[group])))
    return pa.concat_tables(parts)
