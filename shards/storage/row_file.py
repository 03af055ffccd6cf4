"""Reads DIR's stored row order, a file in Parquet format, some rows at a time."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.format.parts import write_parts

_PART_ROWS = 8_192
_CACHED_GROUPS = 2  # row groups; earlier releases wrote groups of a million rows


class RowFile:
    """A file of rows (`ROWS_SCHEMA`); it stays unchanged while it is read.

    Raises:
        OSError, ValueError, pa.ArrowException: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._metadata = pq.read_metadata(path)
        groups = [self._metadata.row_group(number).num_rows for number in range(self._metadata.num_row_groups)]
        self._schema = self._metadata.schema.to_arrow_schema()
        self._starts = np.cumsum([0, *groups])
        self._read_group = functools.lru_cache(_CACHED_GROUPS)(self._load_group)

    def __len__(self) -> int:
        return self._metadata.num_rows

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The schema's metadata."""
        return self._schema.metadata or {}

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows, or some of their columns, into memory."""
        return pq.read_table(self._path, columns=columns and list(columns))

    def to_reader(self) -> pa.RecordBatchReader:
        """Return a reader of all rows, a part at a time."""
        groups = map(self._load_group, range(self._metadata.num_row_groups))
        return pa.RecordBatchReader.from_batches(
            self._schema, (batch for group in groups for batch in group.to_batches())
        )

    def positions_by_split(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the positions of each split's rows, in order; the splits are sorted by name."""
        splits = pq.read_table(self._path, columns=["split"], read_dictionary=["split"]).column("split")
        joined = splits.unify_dictionaries().combine_chunks()
        names, numbers = joined.dictionary.to_pylist(), joined.indices.to_numpy()
        found = {name: np.flatnonzero(numbers == number) for number, name in enumerate(names)}
        return {name: found[name] for name in sorted(found) if len(found[name])}

    def take(self, positions: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return the rows at these positions, which ascend; only the part of the file that has them is read."""
        first, last = np.searchsorted(self._starts, [positions[0], positions[-1]], side="right") - 1
        near = pa.concat_tables([self._read_group(number) for number in range(first, last + 1)])
        start = positions[0]
        near = near.slice(start - self._starts[first], positions[-1] - start + 1)  # `take` first joins all chunks
        return near.take(pa.array(positions - start)).to_pylist()

    def _load_group(self, number: int) -> pa.Table:
        with pq.ParquetFile(self._path, metadata=self._metadata) as file:  # each thread needs a separate one
            return file.read_row_group(number)


def write_row_file(path: Path, rows: pa.RecordBatchReader, metadata: dict[bytes, bytes]) -> None:
    """Write rows in small row groups, so that a block's rows can be read alone."""
    parts = (
        pa.Table.from_batches([batch.slice(start, _PART_ROWS)])
        for batch in rows
        for start in range(0, len(batch), _PART_ROWS)
    )
    write_parts(path, parts, rows.schema.with_metadata(metadata))
