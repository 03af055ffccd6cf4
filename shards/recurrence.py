"""The same bytes in many rows: judged over the whole ledger, which no single download can do."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.outcomes import Status

# Whose bytes came and were fit to be kept, whatever was made of them since.
_COUNTED = (Status.KEPT, Status.DUPLICATE, Status.PLACEHOLDER)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a DIR makes of equal bodies.

    Attributes:
        placeholder_urls: a body under so many distinct URLs is a placeholder, and none of its rows is kept; 0 is never.
        drop_duplicates: keep only the first in the list of those with one body.
    """

    placeholder_urls: int = 20
    drop_duplicates: bool = False


@dataclasses.dataclass(frozen=True)
class Judged:
    """The ledger, once its rows have been compared.

    Attributes:
        ledger: `outcomes.SCHEMA`.
        is_changed: for each of its rows, whether its status is another than it was.
    """

    ledger: pa.Table
    is_changed: npt.NDArray[np.bool_]


def judge(ledger: pa.Table, rules: Rules) -> Judged:
    """Says what becomes of rows whose bytes others have too, and fills duplicate_of.

    What was left out once stays so: its bytes aren't stored. It is counted all the same, so that what comes out doesn't
    depend on what was known first.

    Args:
        ledger: `outcomes.SCHEMA`, of all rows whose outcome is known.
        rules: what to do.
    """
    statuses = np.array(ledger.column("status").to_pylist(), object)
    before = statuses.copy()
    messages: list[str] = ledger.column("message").to_pylist()
    bodies = _number(ledger.column("sha256"))
    if rules.placeholder_urls:
        urls = _count_urls(bodies, _number(ledger.column("image_url")), np.isin(statuses, _COUNTED))[bodies]
        is_placeholder = np.isin(statuses, _COUNTED) & (statuses != Status.PLACEHOLDER)
        is_placeholder &= urls >= rules.placeholder_urls
        statuses[is_placeholder] = str(Status.PLACEHOLDER)
        for place in np.flatnonzero(is_placeholder):
            messages[place] = f"the same bytes under {urls[place]} URLs"
    rows = ledger.column("row").to_numpy()
    first = _first_rows(bodies, rows, statuses == Status.KEPT)[bodies]
    is_double = np.isin(statuses, (Status.KEPT, Status.DUPLICATE)) & (first >= 0) & (first != rows)
    if rules.drop_duplicates:
        statuses[is_double] = str(Status.DUPLICATE)
    ledger = _put(ledger, "status", pa.array(statuses, pa.string()))
    ledger = _put(ledger, "message", pa.array(messages, pa.string()))
    ledger = _put(ledger, "duplicate_of", pa.array(first, pa.int64(), mask=~is_double))
    return Judged(ledger, np.asarray(statuses != before, np.bool_))


def _number(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Gives equal texts equal numbers, from 1; null is 0."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64) + 1


def _count_urls(
    bodies: npt.NDArray[np.int64], urls: npt.NDArray[np.int64], is_counted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Returns for each number of a body under how many distinct URLs it came; 0 for rows without a body."""
    size, length = int(urls.max(initial=0)) + 1, int(bodies.max(initial=0)) + 1
    pairs = np.unique((bodies * size + urls)[is_counted & (bodies > 0)])
    return np.bincount(pairs // size, minlength=length)


def _first_rows(
    bodies: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], is_kept: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Returns for each number of a body the lowest row that keeps it, or -1."""
    first = np.full(int(bodies.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, bodies[is_kept], rows[is_kept])
    return np.where(first == np.iinfo(np.int64).max, -1, first)


def _put(ledger: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = ledger.schema.get_field_index(name)
    return ledger.set_column(place, ledger.schema.field(place), values)
