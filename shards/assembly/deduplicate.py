"""The same bytes in many rows: judged over the whole ledger, which no single download can do."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.format.outcomes import Status

DUPLICATE_COLUMNS = ("row", "image_url", "status", "sha256")  # of the ledger, which are all that is compared

# Whose bytes came and were fit to be kept, whatever was made of them since.
_COUNTED = (Status.KEPT, Status.DUPLICATE, Status.PLACEHOLDER)


@dataclasses.dataclass(frozen=True)
class DuplicateRules:
    """What a DIR makes of equal bodies.

    Attributes:
        placeholder_urls: a body under so many distinct URLs is a placeholder, and none of its rows is kept; 0 is never.
        drop_duplicates: keep only the first in the list of those with one body.
    """

    placeholder_urls: int = 20
    drop_duplicates: bool = False


@dataclasses.dataclass(frozen=True)
class DuplicateVerdicts:
    """What becomes of the ledger's rows, once they have been compared.

    Attributes:
        statuses: str[N].
        duplicate_of: int64[N]: the first row with these bytes, or -1.
        urls: int64[N]: under how many URLs the bytes came that turned out to be a placeholder's; 0 for other rows.
        is_changed: whether the row's status is another than it was.
    """

    statuses: npt.NDArray[np.object_]
    duplicate_of: npt.NDArray[np.int64]
    urls: npt.NDArray[np.int64]
    is_changed: npt.NDArray[np.bool_]

    def apply(self, part: pa.Table, start: int) -> pa.Table:
        """Returns a part of the ledger (`outcomes.SCHEMA`), whose first row is number `start` of all, as judged."""
        here = slice(start, start + len(part))
        messages: list[str] = part.column("message").to_pylist()
        for place in np.flatnonzero(self.urls[here]):
            messages[place] = f"the same bytes under {self.urls[here][place]} URLs"
        first = self.duplicate_of[here]
        part = _put(part, "status", pa.array(self.statuses[here], pa.string()))
        part = _put(part, "message", pa.array(messages, pa.string()))
        return _put(part, "duplicate_of", pa.array(first, pa.int64(), mask=first < 0))


def find_duplicates(ledger: pa.Table, rules: DuplicateRules) -> DuplicateVerdicts:
    """Says what becomes of rows whose bytes others have too, and finds duplicate_of.

    What was left out once stays so: its bytes aren't stored. It is counted all the same, so that what comes out doesn't
    depend on what was known first.

    Args:
        ledger: COLUMNS of `outcomes.SCHEMA`, of all rows whose outcome is known.
        rules: what to do.
    """
    before = _spell(ledger.column("status"))
    statuses = before.copy()
    bodies = _number(ledger.column("sha256"))
    urls = np.zeros(len(ledger), np.int64)
    if rules.placeholder_urls:
        is_counted = np.isin(statuses, _COUNTED)
        counts = _count_urls(bodies, _number(ledger.column("image_url")), is_counted)[bodies]
        is_placeholder = is_counted & (statuses != Status.PLACEHOLDER) & (counts >= rules.placeholder_urls)
        statuses[is_placeholder] = str(Status.PLACEHOLDER)
        urls[is_placeholder] = counts[is_placeholder]
    rows = ledger.column("row").to_numpy()
    first = _first_rows(bodies, rows, statuses == Status.KEPT)[bodies]
    is_double = np.isin(statuses, (Status.KEPT, Status.DUPLICATE)) & (first >= 0) & (first != rows)
    if rules.drop_duplicates:
        statuses[is_double] = str(Status.DUPLICATE)
    return DuplicateVerdicts(statuses, np.where(is_double, first, -1), urls, np.asarray(statuses != before, np.bool_))


def _spell(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Returns a column of few distinct texts, each of which is in memory once."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


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
