"""Reads the rows of a Parquet list, and converts their values to JSON values without loss."""

import uuid
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from shards.errors import ShardsError, first_line

_BATCH_ROWS = 1_000
_LISTS = (
    types.is_list,
    types.is_large_list,
    types.is_fixed_size_list,
    types.is_list_view,
    types.is_large_list_view,
    types.is_map,
)
_SCALARS = (
    types.is_null,
    types.is_boolean,
    types.is_integer,
    types.is_floating,
    types.is_string,
    types.is_large_string,
    types.is_string_view,
)
_BINARIES = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)


def read_parquet(source: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a Parquet file as JSON values by column.

    Raises:
        ShardsError: the file is damaged, or a value can't be converted.
    """
    try:
        file = pq.ParquetFile(source)
        header = _read_header(file, name)
        start = 0
        for batch in file.iter_batches(_BATCH_ROWS):
            columns = [
                _convert_column(values, title, start, name) for title, values in zip(header, batch.columns, strict=True)
            ]
            for values in zip(*columns, strict=True):
                yield dict(zip(header, values, strict=True))
            start += len(batch)
    except ShardsError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name in the file is not UTF-8
        raise ShardsError(f"--list {name} can't be read: {first_line(error)}") from error


def _read_header(file: pq.ParquetFile, name: str) -> list[str]:
    header = file.schema_arrow.names
    if len(set(header)) < len(header):
        raise ShardsError(f"--list {name}: two columns have the same name among {', '.join(header)[:200]}")
    return header


def _convert_column(values: pa.Array, title: str, start: int, name: str) -> list[Any]:
    """Convert a batch of a column; its first row is row `start` of the list."""
    try:
        return to_json_values(values)
    except TypeError as error:
        raise ShardsError(
            f"--list {name}: column {title}: {error}; remove the column, or convert it to text"
        ) from error
    except UnicodeDecodeError as error:
        row = next(row for row in range(len(values)) if not _is_text(values.slice(row, 1)))
        raise ShardsError(
            f"--list {name}: column {title}, row {start + row} (counted from 0): the value isn't UTF-8 text; "
            "correct it, remove the column, or convert it to text"
        ) from error


def _is_text(value: pa.Array) -> bool:
    try:
        to_json_values(value)
    except UnicodeDecodeError:
        return False
    return True


def to_json_values(array: pa.Array) -> list[Any]:  # noqa: PLR0911 -- a line for each kind of type
    """Convert the values of an Arrow array to JSON values.

    Binary values are UTF-8 text. Dates and timestamps are ISO 8601 texts (with Z if the column has a time zone),
    durations are texts such as "5 ns", and decimals are texts. A map is a list of objects with a key and a value.
    Floats may be NaN or infinite.

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
        TypeError: a type has no JSON values.
    """
    kind = array.type
    if isinstance(kind, pa.UuidType):
        return [value and str(uuid.UUID(bytes=value)) for value in array.storage.to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):
        return to_json_values(array.storage)
    if types.is_dictionary(kind):
        return to_json_values(array.dictionary_decode())
    if types.is_struct(kind):
        return _convert_structs(array)
    if any(is_list(kind) for is_list in _LISTS):
        return [to_json_values(scalar.values) if scalar.is_valid else None for scalar in array]
    if types.is_temporal(kind) and not types.is_interval(kind):
        return _convert_times(array)
    if types.is_decimal(kind):
        return array.cast(pa.string()).to_pylist()
    if any(is_binary(kind) for is_binary in _BINARIES):
        return [None if value is None else value.decode() for value in array.to_pylist()]
    if any(is_scalar(kind) for is_scalar in _SCALARS):
        return array.to_pylist()
    raise TypeError(f"values of the type {kind} are not supported")


def _convert_structs(array: pa.StructArray) -> list[Any]:
    names = [field.name for field in array.type]
    if len(set(names)) < len(names):
        raise TypeError(f"two fields have the same name among {', '.join(names)[:200]}")
    columns = [to_json_values(column) for column in array.flatten()]
    are_valid = array.is_valid().to_pylist()
    return [
        dict(zip(names, values, strict=True)) if is_valid else None
        for is_valid, *values in zip(are_valid, *columns, strict=True)
    ]


def _convert_times(array: pa.Array) -> list[str | None]:
    """Convert dates, times and durations. Python's types have neither nanoseconds nor the year 10000."""
    kind = array.type
    if types.is_duration(kind):
        return [None if count is None else f"{count} {kind.unit}" for count in array.cast(pa.int64()).to_pylist()]
    if types.is_time(kind):
        return array.cast(pa.string()).to_pylist()
    suffix = "Z" if types.is_timestamp(kind) and kind.tz is not None else ""
    texts = np.datetime_as_string(array.to_numpy(zero_copy_only=False)).tolist()
    are_valid = array.is_valid().to_pylist()
    return [f"{text}{suffix}" if is_valid else None for text, is_valid in zip(texts, are_valid, strict=True)]
