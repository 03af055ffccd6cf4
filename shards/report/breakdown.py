"""The numbers of rows by class, split, outcome and host together, for the filters of the report's page."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from shards.format.columns import Integers, Names
from shards.format.outcomes import NOT_YET, Status
from shards.report.rows import Positions, Rows

_BLOCK = 1 << 16  # rows whose cells are in memory at a time
_MAX_CHOICES = {"class": 60, "split": 20, "outcome": 40, "host": 30}


@dataclasses.dataclass(frozen=True)
class Filter:
    """The choices of one filter: the most frequent values, and all others together."""

    names: list[str]
    choices: npt.NDArray[np.int64]  # the index in `names` of each value's choice, by value

    @classmethod
    def of(cls, codes: Integers, names: Callable[[int], str], limit: int) -> "Filter":
        """Make a filter with at most `limit` choices and one for all other values.

        Args:
            codes: values of all rows, from 0.
            names: returns the name of a value.
            limit: number of choices.
        """
        counts = _bincount(np.split(codes, range(_BLOCK, len(codes), _BLOCK)), int(codes.max(initial=-1)) + 1)
        used = np.flatnonzero(counts)
        shown = np.sort(used[np.argsort(-counts[used], kind="stable")[:limit]])
        choices = np.full(len(counts), len(shown))
        choices[shown] = np.arange(len(shown))
        others = [f"{len(used) - len(shown):,} others"] if len(used) > len(shown) else []
        return cls([*map(names, shown.tolist()), *others], choices)


class Breakdown:
    """Counts the rows of each cell: each combination of a class, a split, an outcome and a host.

    Attributes:
        filters: by name: class, split, outcome and host.
    """

    def __init__(self, rows: Rows, hosts: Names, class_name: Callable[[int], str]) -> None:
        """Make the filters of rows with these hosts; `class_name` returns the name of a label."""
        self._rows = rows
        self._columns = {"split": rows.split, "outcome": rows.status, "host": hosts}
        labels = rows.label if rows.labels is None else rows.labels.values
        self.filters = {"class": Filter.of(labels, class_name, _MAX_CHOICES["class"])}
        for name, column in self._columns.items():
            self.filters[name] = Filter.of(column.codes, column.distinct.__getitem__, _MAX_CHOICES[name])
        self._shape = [len(each.names) for each in self.filters.values()]
        self._size = math.prod(self._shape)

    @functools.cached_property
    def cells(self) -> list[list[int]]:
        """The numbers of rows: [class, split, outcome, host, rows], without empty cells.

        A choice is its index from 1. Class 0 is any class: a row with several labels is in several cells, but in one
        cell of any class.
        """
        any_class = _bincount((self._cells_of(block, with_class=False) for block in self._blocks()), self._size)
        by_class = _bincount((self._cells_of(block) for block in self._blocks()), self._size)
        return [*self._describe(any_class, 0), *self._describe(by_class, 1)]

    def choose_examples(self, limit: int) -> Positions:
        """Return the position of the first row of each cell whose pictures were not kept; ascending.

        If there are more than `limit` cells, those with most rows.
        """
        first = np.full(self._size, -1)
        counts = np.zeros(self._size, np.int64)
        for block in self._blocks():
            positions = np.arange(block.start, block.stop)[self._has_failed[self._rows.status.codes[block]]]
            cells = self._first_cells_of(positions)
            is_new = first[cells] < 0
            first[cells[is_new][::-1]] = positions[is_new][::-1]  # NumPy keeps the last of several: the first row
            counts += np.bincount(cells, minlength=self._size)
        found = np.flatnonzero(first >= 0)
        return np.sort(first[found[np.argsort(-counts[found], kind="stable")[:limit]]])

    def choices_of(self, position: int) -> dict[str, list[int]]:
        """Return a row's choices by filter, from 1; several classes if it has several labels."""
        rows = self._rows
        codes = {"class": rows.label[[position]] if rows.labels is None else rows.labels[position]}
        codes |= {name: column.codes[[position]] for name, column in self._columns.items()}
        return {name: (np.unique(self.filters[name].choices[found]) + 1).tolist() for name, found in codes.items()}

    @functools.cached_property
    def _has_failed(self) -> npt.NDArray[np.bool_]:
        return np.array([status not in {Status.KEPT, NOT_YET} for status in self._rows.status.distinct], np.bool_)

    def _blocks(self) -> Iterator[slice]:
        return (slice(start, min(start + _BLOCK, len(self._rows))) for start in range(0, len(self._rows), _BLOCK))

    def _cells_of(self, block: slice, *, with_class: bool = True) -> npt.NDArray[np.int64]:
        """Return the cells of a block's rows; several of a row with several labels, unless they are of any class."""
        rows = self._rows
        others = self._other_cells_of(block)
        if not with_class:
            return others
        if rows.labels is None:
            return self._add_class(rows.label[block], others)
        labels = rows.labels.select(block)
        return self._add_class(labels.values, np.repeat(others, labels.counts))

    def _first_cells_of(self, positions: Positions) -> npt.NDArray[np.int64]:
        return self._add_class(self._rows.label[positions], self._other_cells_of(positions))

    def _other_cells_of(self, chosen: slice | Positions) -> npt.NDArray[np.int64]:
        choices = [self.filters[name].choices[column.codes[chosen]] for name, column in self._columns.items()]
        return np.ravel_multi_index(choices, self._shape[1:]).astype(np.int64)

    def _add_class(self, labels: Integers, others: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self.filters["class"].choices[labels] * math.prod(self._shape[1:]) + others

    def _describe(self, counts: npt.NDArray[np.int64], first_class: int) -> list[list[int]]:
        cells = np.flatnonzero(counts)
        choices = np.stack([*np.unravel_index(cells, self._shape), counts[cells]], axis=1)
        return (choices + np.array([first_class, 1, 1, 1, 0])).tolist()


def _bincount(parts: Iterator[npt.NDArray[np.int64]] | list[Integers], size: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(size, np.int64)
    for part in parts:  # NumPy copies its input as int64
        counts += np.bincount(part, minlength=size)
    return counts
