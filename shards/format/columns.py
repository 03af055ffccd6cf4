"""Columns of many rows in few bytes: numbers of the smallest type, lists, codes of names, texts in Arrow's buffers."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Integers = npt.NDArray[np.signedinteger[Any]]
"""int8, int16, int32 or int64, whichever is the smallest with room for all values."""

_BLOCK = 1 << 16

Rows = slice | npt.NDArray[np.bool_]
"""A choice of rows: consecutive ones, or those that are true."""


def join_numbers(parts: Iterable[pa.Array | npt.NDArray[np.signedinteger[Any]]]) -> Integers:
    """Return the integers of all parts in one array."""
    small = [_narrow(part if isinstance(part, np.ndarray) else part.to_numpy()) for part in parts]
    return np.concatenate([np.empty(0, np.int8), *small])  # the type with room for each part


def _narrow(values: npt.NDArray[np.signedinteger[Any]]) -> Integers:
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values


class Texts:
    """A column of N texts in Arrow's buffers; a Python string is made when it is read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    @classmethod
    def join(cls, parts: Iterable[pa.Array]) -> "Texts":
        """Return the texts of all parts."""
        return cls(pa.chunked_array(parts, pa.string()))

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> str:
        return self._column[row].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()

    def select(self, rows: Rows) -> "Texts":
        """Return the chosen rows."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return Texts(self._column.slice(start, stop - start))
        return Texts(self._column.filter(pa.array(rows)))


@dataclasses.dataclass(frozen=True)
class Names:
    """A column of N texts of which few are different."""

    distinct: list[str]  # sorted
    codes: Integers  # [N], each row's index in `distinct`

    @classmethod
    def join(cls, parts: Iterable[pa.Array]) -> "Names":
        """Return the texts of all parts in this form."""
        found: dict[str, int] = {}

        def encode(part: pa.Array) -> npt.NDArray[np.int64]:
            encoded = part.dictionary_encode()
            numbers = [found.setdefault(name, len(found)) for name in encoded.dictionary.to_pylist()]
            return np.array(numbers, np.int64)[encoded.indices.to_numpy()]

        codes = join_numbers(map(encode, parts))
        distinct = sorted(found)
        if distinct != list(found):
            place = {name: number for number, name in enumerate(distinct)}
            codes = np.array([place[name] for name in found], codes.dtype)[codes]
        return cls(distinct, codes)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.distinct[self.codes[row]]

    def __iter__(self) -> Iterator[str]:
        return map(self.distinct.__getitem__, self.codes.tolist())

    def select(self, rows: Rows) -> "Names":
        """Return the chosen rows, with the names that occur in them."""
        codes = self.codes[rows]
        is_used = np.zeros(len(self.distinct), np.bool_)
        for start in range(0, len(codes), _BLOCK):  # NumPy makes a copy in int64 of what it indexes with
            is_used[codes[start : start + _BLOCK]] = True
        if is_used.all():
            return Names(self.distinct, codes)
        place = (np.cumsum(is_used) - 1).astype(codes.dtype)
        return Names(list(itertools.compress(self.distinct, is_used)), place[codes])


@dataclasses.dataclass(frozen=True)
class Lists:
    """A column of N lists of integers, in one array."""

    ends: Integers  # [N + 1], where each row's integers end in `values`, after a 0
    values: Integers  # those of all rows

    @classmethod
    def join(cls, parts: Iterable[pa.ListArray]) -> "Lists":
        """Return the lists of all parts; none is null."""
        values: list[Integers] = []
        counts = [np.zeros(1, np.int8)]
        for part in parts:
            values.append(join_numbers([part.flatten()]))
            counts.append(join_numbers([part.value_lengths()]))
        return cls(join_numbers([np.cumsum(np.concatenate(counts))]), join_numbers(values))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> Integers:
        return self.values[self.ends[row] : self.ends[row + 1]]

    @property
    def counts(self) -> Integers:
        """The number of each row's integers, [N]."""
        return np.diff(self.ends)

    @property
    def first(self) -> Integers:
        """The first integer of each row, [N]; no row is empty."""
        return self.values[self.ends[:-1]]

    def take(self, rows: npt.NDArray[np.int64]) -> "Lists":
        """Return the rows with these numbers."""
        counts = self.ends[rows + 1].astype(np.int64) - self.ends[rows]
        ends = np.concatenate([[0], np.cumsum(counts)])
        at = np.arange(ends[-1]) + np.repeat(self.ends[rows] - ends[:-1], counts)
        return Lists(ends, self.values[at])

    def select(self, rows: Rows) -> "Lists":
        """Return the chosen rows; consecutive ones share the memory of the integers."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            ends = self.ends[start : max(start, stop) + 1]
            return Lists(ends - ends[0], self.values[ends[0] : ends[-1]])
        counts = self.counts
        ends = np.cumsum(np.append(0, counts[rows])).astype(self.ends.dtype)
        return Lists(ends, self.values[np.repeat(rows, counts)])

    def to_arrow(self) -> pa.ListArray:
        """Return the column as int32 lists."""
        kind = pa.list_(pa.field("element", pa.int32(), nullable=False))
        return pa.ListArray.from_arrays(self.ends.astype(np.int32), self.values.astype(np.int32), type=kind)
