"""Finds placeholders and duplicates, response bodies with the same bytes, among the outcomes of all rows."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.format.outcomes import OUTCOMES_SCHEMA, Status
from shards.format.repeats import Hashes, find_repeats, hash_texts, is_among

# Statuses of rows whose response body was a usable picture.
_WITH_PICTURE = (Status.KEPT, Status.DUPLICATE, Status.PLACEHOLDER)


@dataclasses.dataclass(frozen=True)
class DuplicateRules:
    """Rules for rows with equal response bodies."""

    # Number of distinct URLs from which a body is a placeholder and not kept; 0 disables the rule.
    placeholder_urls: int = 20
    drop_duplicates: bool = False  # whether only the first row in the list with the same body is kept


@dataclasses.dataclass(frozen=True)
class DuplicateVerdicts:
    """The new outcomes of the M rows whose body other rows may have too; all other rows keep theirs."""

    starts: list[int]  # position of each block's first row among all rows, and their number
    positions: npt.NDArray[np.int64]  # int64[M], positions among all rows, ascending
    statuses: npt.NDArray[np.object_]  # str[M], new statuses
    duplicate_of: npt.NDArray[np.int64]  # int64[M], first row with the same bytes, or -1
    urls: npt.NDArray[np.int64]  # int64[M], number of URLs with the same bytes for new placeholders; 0 for other rows
    is_changed: npt.NDArray[np.bool_]  # bool[M], whether the status has changed

    def apply(self, part: pa.Table, block: int) -> pa.Table:
        """Return the outcomes of a block (`OUTCOMES_SCHEMA`) with their new values."""
        start, (first, last) = self.starts[block], self._verdicts_of(block)
        statuses: list[str] = part.column("status").to_pylist()
        messages: list[str] = part.column("message").to_pylist()
        duplicate_of = np.full(len(part), -1)
        for verdict in range(first, last):
            position = self.positions[verdict] - start
            statuses[position] = self.statuses[verdict]
            duplicate_of[position] = self.duplicate_of[verdict]
            if self.urls[verdict]:
                messages[position] = f"the same bytes under {self.urls[verdict]} URLs"
        part = _put(part, "status", pa.array(statuses, pa.string()))
        part = _put(part, "message", pa.array(messages, pa.string()))
        return _put(part, "duplicate_of", pa.array(duplicate_of, pa.int64(), mask=duplicate_of < 0))

    def changed_rows(self, block: int) -> npt.NDArray[np.bool_]:
        """Return for each row of a block whether its status has changed."""
        first, last = self._verdicts_of(block)
        changed = np.zeros(self.starts[block + 1] - self.starts[block], np.bool_)
        changed[self.positions[first:last] - self.starts[block]] = self.is_changed[first:last]
        return changed

    def _verdicts_of(self, block: int) -> tuple[int, int]:
        first, last = np.searchsorted(self.positions, self.starts[block : block + 2])
        return int(first), int(last)


def find_duplicates(
    blocks: int, read: Callable[[int, Sequence[str]], pa.Table], rules: DuplicateRules
) -> DuplicateVerdicts:
    """Find placeholders and duplicates among rows with the same bytes.

    A row that is a placeholder or duplicate already stays one, since its bytes are not stored. It still counts, so that
    the result does not depend on the order in which rows were downloaded.

    `read` returns columns of the outcomes of a block, given its number. Blocks are read twice: first to find the bodies
    that occur more than once, and then to compare their rows, so that the others are not in memory.
    """
    bodies = [_hash_bodies(read(number, ("status", "sha256"))) for number in range(blocks)]
    starts = [0, *itertools.accumulate(map(len, bodies))]
    repeats = find_repeats(bodies)
    positions: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    tables = [_compared(OUTCOMES_SCHEMA.empty_table(), np.zeros(0, np.bool_))]
    for number, hashes in enumerate(bodies):
        chosen = is_among(hashes, repeats)
        if chosen.any():
            positions.append(starts[number] + np.flatnonzero(chosen))
            tables.append(_compared(read(number, ("row", "image_url", "status", "sha256")), chosen))
    rows = pa.concat_tables(tables).unify_dictionaries()
    return _compare(starts, np.concatenate(positions), rows, rules)


def _hash_bodies(part: pa.Table) -> Hashes:
    """Hash the bodies of the rows with a picture; 0 for other rows."""
    has_picture = np.isin(part.column("status").to_pylist(), _WITH_PICTURE)
    return np.where(has_picture, hash_texts(part.column("sha256")), 0)


def _compared(part: pa.Table, chosen: npt.NDArray[np.bool_]) -> pa.Table:
    """Return what is compared of the chosen rows: row, hash of the URL, status, and sha256 as a dictionary."""
    part = part.filter(pa.array(chosen, pa.bool_()))
    columns = {"row": part.column("row"), "url": hash_texts(part.column("image_url"))}
    return pa.table(columns | {name: part.column(name).dictionary_encode() for name in ("status", "sha256")})


def _compare(
    starts: list[int], positions: npt.NDArray[np.int64], rows: pa.Table, rules: DuplicateRules
) -> DuplicateVerdicts:
    before = _to_objects(rows.column("status"))
    statuses = before.copy()
    bodies = rows.column("sha256").combine_chunks().indices.to_numpy()  # a number from 0 for each distinct body
    urls = np.zeros(len(rows), np.int64)
    if rules.placeholder_urls:
        counts = _aggregate_by_body(bodies, rows.column("url"), np.ones(len(rows), np.bool_), "count_distinct", 0)
        is_placeholder = (statuses != Status.PLACEHOLDER) & (counts >= rules.placeholder_urls)
        statuses[is_placeholder] = str(Status.PLACEHOLDER)
        urls[is_placeholder] = counts[is_placeholder]
    numbers = rows.column("row").to_numpy()
    first = _aggregate_by_body(bodies, rows.column("row"), statuses == Status.KEPT, "min", -1)
    is_duplicate = np.isin(statuses, (Status.KEPT, Status.DUPLICATE)) & (first >= 0) & (first != numbers)
    if rules.drop_duplicates:
        statuses[is_duplicate] = str(Status.DUPLICATE)
    is_changed = np.asarray(statuses != before, np.bool_)
    return DuplicateVerdicts(starts, positions, statuses, np.where(is_duplicate, first, -1), urls, is_changed)


def _to_objects(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return a dictionary column as an array that holds each distinct text in memory once."""
    encoded = column.combine_chunks()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


def _aggregate_by_body(
    bodies: npt.NDArray[np.int32], values: pa.ChunkedArray, chosen: npt.NDArray[np.bool_], function: str, default: int
) -> npt.NDArray[np.int64]:
    """Aggregate the values of the chosen rows with the same body; return the result for each row, or `default`."""
    table = pa.table({"body": bodies[chosen], "value": values.filter(pa.array(chosen))})
    groups = table.group_by("body").aggregate([("value", function)])
    found = np.full(int(bodies.max(initial=-1)) + 1, default, np.int64)
    found[groups.column("body").to_numpy()] = groups.column(f"value_{function}").to_numpy()
    return found[bodies]


def _put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), values)
