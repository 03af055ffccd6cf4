"""Stores tables in a temporary file, and returns some of their rows in another order, in little memory."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_BATCH_BYTES = 2**22  # of rows that are written together
_BUCKET_BYTES = 2**23  # of rows that are sorted together
_MAX_BUCKETS = 100  # each is an open file
_POSITION = "_position"


class RowStore:
    """Rows in a temporary file in `folder`: `append` them, then call `finish`, then read them; use it in a `with`."""

    def __init__(self, schema: pa.Schema, folder: Path | None = None, batch_bytes: int = _BATCH_BYTES) -> None:
        self._schema = schema
        self._folder = folder
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- __exit__ closes it
        self._writer = pa.ipc.new_stream(self._file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        self._batch_bytes = batch_bytes  # written together
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._bytes = 0
        self._rows = 0

    def __enter__(self) -> "RowStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def append(self, table: pa.Table) -> None:
        """Add rows at the end."""
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        self._bytes += table.nbytes
        self._rows += len(table)
        if self._pending_bytes >= self._batch_bytes:
            self._flush()

    def finish(self) -> None:
        """Write the last rows; the methods below read them."""
        self._flush()
        self._writer.close()

    def read(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in their order."""
        self._file.seek(0)
        with pa.ipc.open_stream(self._file) as reader:
            yield from reader

    def take(self, order: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
        """Yield the rows with these indices, in this order.

        The rows are first distributed to files by their new position, and then each file is sorted. This needs 8 bytes
        of memory for each stored row, and 16 for those of one file.
        """
        position = np.full(len(self), -1, np.int64)
        position[order] = np.arange(len(order))
        count = min(_MAX_BUCKETS, 1 + self._bytes * len(order) // max(1, len(self)) // _BUCKET_BYTES)
        bounds = np.linspace(0, len(order), count + 1).astype(np.int64)
        with contextlib.ExitStack() as stack:
            schema = self._schema.append(pa.field(_POSITION, pa.int64()))
            buckets = [stack.enter_context(RowStore(schema, self._folder, batch_bytes=0)) for _ in range(count)]
            self._distribute(position, bounds, buckets)
            for bucket in buckets:
                bucket.finish()
                rows = pa.Table.from_batches(bucket.read(), schema)
                places = np.argsort(rows.column(_POSITION).to_numpy())
                yield rows.drop_columns([_POSITION]).take(pa.array(places))

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending).combine_chunks())
        self._pending, self._pending_bytes = [], 0

    def _distribute(
        self, position: npt.NDArray[np.int64], bounds: npt.NDArray[np.int64], buckets: list["RowStore"]
    ) -> None:
        start = 0
        for batch in self.read():
            places = position[start : start + len(batch)]
            rows = np.flatnonzero(places >= 0)
            rows = rows[np.argsort(places[rows])]
            table = pa.Table.from_batches([batch.take(pa.array(rows))])
            table = table.append_column(_POSITION, pa.array(places[rows]))
            ends = np.searchsorted(places[rows], bounds).tolist()
            for bucket, first, end in zip(buckets, ends[:-1], ends[1:], strict=True):
                if end > first:
                    bucket.append(table.slice(first, end - first))
            start += len(batch)
