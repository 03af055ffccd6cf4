"""Compares the rows of a file with the expected ones; of a long file, a part at a time."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from shards.format.repeats import find_repeats, hash_text, hash_texts
from shards.verify.tar_check import Difference

Row = dict[str, Any]

_PART_ROWS = 4096


def compare_rows(
    name: str, expected: Sequence[Row], found: Sequence[Row], columns: Sequence[str]
) -> Iterator[Difference]:
    """Compare a file's rows with the expected ones, matched by their number in the list, and then their order."""
    by_number, counts = {row["row"]: row for row in expected}, collections.Counter(row["row"] for row in found)
    differences = [each for row in found for each in _compare_values(name, by_number.get(row["row"]), row, columns)]
    differences += [_count(name, row, counts[number]) for number, row in by_number.items() if counts[number] != 1]
    differences += _repeated(name, "key", (row["key"] for row in found))
    yield from differences
    if not differences and [row["row"] for row in found] != [*by_number]:
        yield _other_order(name)


class RowComparison:
    """The comparison of the rows of a long file with the expected ones, matched by their number in the list.

    The expected rows are given a part at a time, and the file is read as far. Only rows whose counterparts haven't been
    read yet stay in memory. The differences are those of `compare_rows`, except repeated keys.

    Args:
        name: name of the file.
        columns: names of the columns that are compared; the file also has "row" and "key".
        schema: schema of the file.
        parts: the rows of the file.
        skipped: numbers of rows that are not compared; it may grow, as long as they are not expected.
    """

    def __init__(
        self, name: str, columns: Sequence[str], schema: pa.Schema, parts: Iterable[pa.Table], skipped: set[int]
    ) -> None:
        self._name = name
        self._columns = columns
        self._parts = iter(parts)
        self._skipped = skipped
        self._rest: pa.Table = schema.empty_table()  # rows of the file that are compared next
        self._expected: dict[int, tuple[int, Row]] = {}  # not found so far: by number, each with its position
        self._found: list[tuple[int, Row]] = []  # not expected so far, each with its position
        self._counts = [0, 0]  # rows that were expected, and that were found
        self._values: list[tuple[int, Difference]] = []  # with the positions of the found rows
        self._is_in_order = True

    def expect(self, part: pa.Table) -> None:
        """Compare the next rows of the file with these."""
        found = self._take(len(part))
        if not found.select(self._columns).equals(part.select(self._columns)):
            self._is_in_order &= found.column("row").equals(part.column("row"))
            numbered = enumerate(part.to_pylist(), self._counts[0])
            self._expected |= {row["row"]: (position, row) for position, row in numbered}
            self._found += enumerate(found.to_pylist(), self._counts[1])
            self._match()
        self._counts = [self._counts[0] + len(part), self._counts[1] + len(found)]

    def finish(self, read_expected: Callable[[], Iterable[pa.Table]]) -> list[Difference]:
        """Read the rest of the file, and return all differences; `read_expected` returns all that was expected."""
        while len(found := self._take(_PART_ROWS)):
            self._found += enumerate(found.to_pylist(), self._counts[1])
            self._counts[1] += len(found)
            self._match()
        repeated = self._find_expected({row["row"] for _, row in self._found}, read_expected)
        times = collections.Counter(row["row"] for _, row in self._found)
        for position, row in self._found:
            wanted = repeated.get(row["row"], (0, None))[1]
            found_values = _compare_values(self._name, wanted, row, self._columns)
            self._values += [(position, difference) for difference in found_values]
        counts = [(position, _count(self._name, row, 0)) for position, row in self._expected.values()]
        counts += [(position, _count(self._name, row, 1 + times[row["row"]])) for position, row in repeated.values()]
        ordered = [sorted(differences, key=lambda each: each[0]) for differences in (self._values, counts)]
        differences = [difference for group in ordered for _, difference in group]
        return differences or ([] if self._is_in_order else [_other_order(self._name)])

    def _take(self, count: int) -> pa.Table:
        """Return the next rows of the file, `count` or as many as it has."""
        rows = skip_rows(self._rest, self._skipped)
        while len(rows) < count and (part := next(self._parts, None)) is not None:
            rows = pa.concat_tables([rows, skip_rows(part, self._skipped)])
        self._rest = rows.slice(count)
        return rows.slice(0, count)

    def _match(self) -> None:
        """Compare the found rows that are expected."""
        unexpected: list[tuple[int, Row]] = []
        for position, row in self._found:
            _, wanted = self._expected.pop(row["row"], (0, None))
            if wanted is None:
                unexpected.append((position, row))
            else:
                found = _compare_values(self._name, wanted, row, self._columns)
                self._values += [(position, difference) for difference in found]
        self._found = unexpected

    def _find_expected(
        self, numbers: set[int], read_expected: Callable[[], Iterable[pa.Table]]
    ) -> dict[int, tuple[int, Row]]:
        """Return the expected rows with these numbers, each with its position."""
        found: dict[int, tuple[int, Row]] = {}
        start = 0
        for part in read_expected() if numbers else ():
            at = np.flatnonzero(np.isin(part.column("row").to_numpy(), list(numbers)))
            rows = part.take(pa.array(at)).to_pylist()
            found |= {row["row"]: (start + place, row) for place, row in zip(at.tolist(), rows, strict=True)}
            start += len(part)
        return found


def skip_rows(part: pa.Table, skipped: set[int]) -> pa.Table:
    """Return the rows of a part except those with these numbers."""
    if not skipped:
        return part
    return part.filter(pa.array(~np.isin(part.column("row").to_numpy(), list(skipped))))


def find_repeated(name: str, what: str, read: Callable[[], Iterable[pa.ChunkedArray]]) -> list[Difference]:
    """Find the values that occur more than once in a column, whose parts `read` returns."""
    repeats = {*find_repeats(hash_texts(part.cast(pa.string())) for part in read()).tolist()}
    if not repeats:
        return []
    values = (value for part in read() for value in part.to_pylist())
    return _repeated(name, what, (value for value in values if hash_text(str(value)) in repeats))


def _repeated(name: str, what: str, values: Iterable[object]) -> list[Difference]:
    counts = collections.Counter(values).items()
    return [Difference(name, str(value), what, "once", f"{count} times") for value, count in counts if count > 1]


def _compare_values(name: str, wanted: Row | None, row: Row, columns: Sequence[str]) -> list[Difference]:
    """Return the values of a row that differ; `wanted` is None if no row has its number."""
    names = columns if wanted else ("row",)
    values = [(column, wanted[column] if wanted else "none", row[column]) for column in names]
    return [Difference(name, row["key"], *value) for value in values if value[1] != value[2]]


def _count(name: str, row: Row, count: int) -> Difference:
    return Difference(name, row["key"], f"row {row['row']}", "once", f"{count} times")


def _other_order(name: str) -> Difference:
    return Difference(name, "", "order of the rows", "that of the list", "another")
