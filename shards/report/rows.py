"""The rows of the list with their outcomes: a few bytes of each in memory, while the rest is read when it is shown."""

import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardsError, first_line
from shards.format.columns import Integers, Lists, Names, join_numbers
from shards.format.index import LABELS
from shards.format.outcomes import NOT_YET, OUTCOMES_FILE, OUTCOMES_SCHEMA, Status
from shards.format.parts import read_parts, take_rows
from shards.format.repeats import Hashes, hash_texts
from shards.storage.shard_dir import ROWS_PATH

Positions = npt.NDArray[np.int64]
"""int64[M], positions of rows, from 0, which ascend."""

_BLOCK = 1 << 16


class ListedRow(NamedTuple):
    """A row of the list with its outcome."""

    row: int
    key: str
    image_url: str
    split: str
    label: int
    status: str
    bytes: int | None
    sha256: str | None
    message: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """Columns of the N rows of a list with their outcomes, in the order in which DIR has the rows."""

    root: Path  # DIR
    row: Integers  # [N], number of the row in the list
    split: Names
    label: Integers  # [N], the first of each row
    labels: Lists | None  # all labels of each row; None if each has one
    status: Names  # NOT_YET for rows without an outcome
    body: Hashes  # of sha256
    outcome: Integers  # [N], position of the outcome in outcomes.parquet; -1 for none
    kept_bytes: Integers  # sizes of the response bodies of the kept rows, ascending
    first: dt.datetime | None  # time of the first outcome, in UTC; None if there is none
    last: dt.datetime | None  # time of the last outcome

    @classmethod
    def load(cls, root: Path) -> "Rows":
        """Join DIR's rows (`ROWS_SCHEMA`) with outcomes.parquet.

        Raises:
            ShardsError: a file can't be read.
        """
        row = join_numbers(_read_column(root, ROWS_PATH, "row"))
        outcome = _find_rows(row, join_numbers(_read_column(root, OUTCOMES_FILE, "row")))
        # The last status and body are those of rows without an outcome, whose position is -1.
        status = Names.join(itertools.chain(_read_column(root, OUTCOMES_FILE, "status"), [pa.array([NOT_YET])]))
        body = np.concatenate([*map(hash_texts, _read_column(root, OUTCOMES_FILE, "sha256")), np.zeros(1, np.int64)])
        sizes = join_numbers(part.fill_null(0) for part in _read_column(root, OUTCOMES_FILE, "bytes"))
        first, last = _find_limits(_read_column(root, OUTCOMES_FILE, "time"))
        kept = sizes[_is_name(status, Status.KEPT)[:-1] & (sizes > 0)]
        return cls(
            root=root,
            row=row,
            split=Names.join(_read_column(root, ROWS_PATH, "split")),
            label=join_numbers(_read_column(root, ROWS_PATH, "label")),
            labels=Lists.join(_read_column(root, ROWS_PATH, LABELS.name)) if _has_lists(root) else None,
            status=Names(status.distinct, status.codes[outcome]),
            body=body[outcome],
            outcome=outcome,
            kept_bytes=np.sort(kept),
            first=first,
            last=last,
        )

    def __len__(self) -> int:
        return len(self.row)

    def has_status(self, status: str) -> npt.NDArray[np.bool_]:
        """Return for each row whether it has a status: bool[N]."""
        return _is_name(self.status, status)

    def read_blocks(self, column: str) -> Iterator[tuple[slice, list[Any]]]:
        """Yield the values of a column of the list a block of rows at a time."""
        start = 0
        for part in _read_column(self.root, ROWS_PATH, column):
            yield slice(start, start + len(part)), part.to_pylist()
            start += len(part)

    def positions_of(self, rows: Iterable[int]) -> Positions:
        """Return the positions of rows, given their numbers in the list."""
        wanted = np.array(sorted(rows), np.int64)
        found = [np.empty(0, np.int64)]
        for start in range(0, len(self) if len(wanted) else 0, _BLOCK):
            block = self.row[start : start + _BLOCK]
            at = np.searchsorted(wanted, block).clip(max=len(wanted) - 1)
            found.append(start + np.flatnonzero(wanted[at] == block))
        return np.concatenate(found)

    def read(self, positions: Positions, column: str) -> list[Any]:
        """Read a column of the list for a few rows."""
        return _take(self.root, ROWS_PATH, positions, [column]).column(column).to_pylist()

    def read_outcomes(self, positions: Positions, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Read columns of the outcomes of a few rows; an empty dict for a row without an outcome."""
        places, order = np.unique(self.outcome[positions].astype(np.int64), return_inverse=True)
        has_outcome = places >= 0
        table = _take(self.root, OUTCOMES_FILE, places[has_outcome], columns)
        found = [*({} for _ in places[~has_outcome]), *table.to_pylist()]
        return [found[place] for place in order.tolist()]

    def read_rows(self, positions: Positions) -> list[ListedRow]:
        """Read all about a few rows."""
        columns = ["row", "key", "image_url", "split", "label"]
        listed = _take(self.root, ROWS_PATH, positions, columns).to_pylist()
        outcomes = self.read_outcomes(positions, ["status", "bytes", "sha256", "message"])
        without: dict[str, Any] = {"status": NOT_YET, "bytes": None, "sha256": None, "message": ""}
        return [ListedRow(**row, **without | outcome) for row, outcome in zip(listed, outcomes, strict=True)]


def _find_rows(rows: Integers, others: Integers) -> Integers:
    """Return the position in `others` of each row; the last of several, and -1 for none."""
    if not len(others):
        return np.full(len(rows), -1, np.int8)
    order = np.argsort(others, kind="stable")
    at = np.searchsorted(others, rows, side="right", sorter=order) - 1
    found = order[at]
    found[others[found] != rows] = -1  # also where `at` is -1
    return join_numbers([found])


def _find_limits(times: Iterable[pa.Array]) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Return the first and the last time; None if there is none."""
    limits = [_limits_of(part.cast(pa.int64()).to_numpy()) for part in times if len(part)]
    if not limits:
        return None, None
    joined = [min(first for first, _ in limits), max(last for _, last in limits)]
    first, last = pa.array(joined, OUTCOMES_SCHEMA.field("time").type).to_pylist()
    return first, last


def _limits_of(values: npt.NDArray[np.int64]) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _is_name(names: Names, name: str) -> npt.NDArray[np.bool_]:
    if name not in names.distinct:
        return np.zeros(len(names), np.bool_)
    return names.codes == names.distinct.index(name)


def _has_lists(root: Path) -> bool:
    return LABELS.name in pq.read_schema(root / ROWS_PATH).names  # load_shard_dir has read it


def _read_column(root: Path, name: str, column: str) -> Iterator[pa.Array]:
    try:
        for part in read_parts(root / name, [column]):
            yield from part.column(column).chunks
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _unreadable(root, name, error) from error


def _take(root: Path, name: str, positions: Positions, columns: Sequence[str]) -> pa.Table:
    try:
        return take_rows(root / name, positions, columns)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _unreadable(root, name, error) from error


def _unreadable(root: Path, name: str, error: Exception) -> ShardsError:
    return ShardsError(f"{root / name} can't be read ({first_line(error)}); make it with: shards finalize {root}")
