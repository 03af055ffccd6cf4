"""Reads pictures from a column of Parquet files, in the order of their rows."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardsError, first_line
from shards.format.outcomes import Outcome, Status

_BATCH_ROWS = 64  # that are in memory


def picture_name(file: str, row: int) -> str:
    """Return the name of a picture in a list: the file's path relative to the dataset, and the row in the file."""
    return f"{file}#{row}"


class ParquetPictures:
    """The pictures in column `column` of Parquet files in the folder `base`.

    The column has bytes, or structs with the bytes or the path of a file, as `datasets` writes them. Rows that follow
    each other are read from one pass over the file.
    """

    def __init__(self, base: Path, column: str) -> None:
        self._base = base
        self._column = column
        self._file = ""  # that is being read
        self._batches: Iterator[tuple[int, pa.Array]] = iter(())
        self._start = 0  # row of the current batch
        self._batch: pa.Array = pa.array([])

    def take(self, row: dict[str, Any], folder: Path) -> tuple[Outcome, Path | None]:
        """Return the outcome for a row of the list, and a file in `folder` with its picture.

        Raises:
            ShardsError: the Parquet file can't be read.
        """
        now = dt.datetime.now(dt.UTC)
        file, _, number = row["image_url"].rpartition("#")
        try:
            value = self._read(file, int(number))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ShardsError(f"{self._base / file} can't be read: {first_line(error)}") from error
        path = None
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path")
        if value is None:
            reason = f"only a path, {path}, without bytes" if path else "the row has no picture"
            return Outcome(Status.MISSING_FILE, now, message=reason), None
        target = folder / str(row["row"])
        target.write_bytes(value)
        return Outcome(Status.KEPT, now), target

    def _read(self, file: str, row: int) -> Any:  # noqa: ANN401 -- bytes, a dict or None
        if file != self._file or row < self._start:
            self._file, self._start, self._batch = file, 0, pa.array([])
            self._batches = self._iterate(self._base / file, row)
        while row >= self._start + len(self._batch):
            self._start, self._batch = next(self._batches)
        return self._batch[row - self._start].as_py()

    def _iterate(self, path: Path, first: int) -> Iterator[tuple[int, pa.Array]]:
        """Yield the column's values and the row of the first, from the row group on that has row `first`."""
        with pq.ParquetFile(path) as file:
            start = 0
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if start + count > first:
                    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[self._column]):
                        yield start, batch.column(0)
                        start += len(batch)
                else:
                    start += count
        raise ValueError(f"it has {start} rows, and row {first} was listed; it has changed")
