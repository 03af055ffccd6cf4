"""Find placeholders and duplicates, response bodies with the same bytes, among the outcomes of all rows."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.format.outcomes import Status

DUPLICATE_COLUMNS = ("row", "image_url", "status", "sha256")  # columns that are compared

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
    """The outcomes of N rows after their comparison."""

    statuses: npt.NDArray[np.object_]  # str[N], new statuses
    duplicate_of: npt.NDArray[np.int64]  # int64[N], first row with the same bytes, or -1
    urls: npt.NDArray[np.int64]  # int64[N], number of URLs with the same bytes for new placeholders; 0 for other rows
    is_changed: npt.NDArray[np.bool_]  # bool[N], whether the status has changed

    def apply(self, part: pa.Table, start: int) -> pa.Table:
        """Return a block's outcomes (`OUTCOMES_SCHEMA`), which begin at row `start` of all, with their new values."""
        rows = slice(start, start + len(part))
        messages: list[str] = part.column("message").to_pylist()
        for position in np.flatnonzero(self.urls[rows]):
            messages[position] = f"the same bytes under {self.urls[rows][position]} URLs"
        first = self.duplicate_of[rows]
        part = _put(part, "status", pa.array(self.statuses[rows], pa.string()))
        part = _put(part, "message", pa.array(messages, pa.string()))
        return _put(part, "duplicate_of", pa.array(first, pa.int64(), mask=first < 0))


def find_duplicates(outcomes: pa.Table, rules: DuplicateRules) -> DuplicateVerdicts:
    """Find placeholders and duplicates among rows with the same bytes.

    A row that is a placeholder or duplicate already stays one, since its bytes are not stored. It still counts, so that
    the result does not depend on the order in which rows were downloaded. `outcomes` has DUPLICATE_COLUMNS of all rows
    that have an outcome.
    """
    before = _to_objects(outcomes.column("status"))
    statuses = before.copy()
    # A number from 1 for each distinct body; 0 for a row without one.
    bodies = outcomes.column("sha256").combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy() + 1
    urls = np.zeros(len(outcomes), np.int64)
    if rules.placeholder_urls:
        has_picture = np.isin(statuses, _WITH_PICTURE)
        counts = _aggregate_by_body(bodies, outcomes.column("image_url"), has_picture, "count_distinct", 0)
        is_placeholder = has_picture & (statuses != Status.PLACEHOLDER) & (counts >= rules.placeholder_urls)
        statuses[is_placeholder] = str(Status.PLACEHOLDER)
        urls[is_placeholder] = counts[is_placeholder]
    rows = outcomes.column("row").to_numpy()
    first = _aggregate_by_body(bodies, outcomes.column("row"), statuses == Status.KEPT, "min", -1)
    is_duplicate = np.isin(statuses, (Status.KEPT, Status.DUPLICATE)) & (first >= 0) & (first != rows)
    if rules.drop_duplicates:
        statuses[is_duplicate] = str(Status.DUPLICATE)
    return DuplicateVerdicts(
        statuses, np.where(is_duplicate, first, -1), urls, np.asarray(statuses != before, np.bool_)
    )


def _to_objects(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return a text column as an array that holds each distinct text in memory once."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


def _aggregate_by_body(
    bodies: npt.NDArray[np.int64], values: pa.ChunkedArray, chosen: npt.NDArray[np.bool_], function: str, default: int
) -> npt.NDArray[np.int64]:
    """Aggregate the values of the chosen rows with the same body; return the result for each row, or `default`."""
    chosen = chosen & (bodies > 0)
    table = pa.table({"body": bodies[chosen], "value": values.filter(pa.array(chosen))})
    groups = table.group_by("body").aggregate([("value", function)])
    found = np.full(int(bodies.max(initial=0)) + 1, default, np.int64)
    found[groups.column("body").to_numpy()] = groups.column(f"value_{function}").to_numpy()
    return found[bodies]


def _put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), values)
