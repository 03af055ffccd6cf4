"""Finds the texts that occur more than once in a long column, with a few bytes for each row."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.int64]
"""int64[N], a hash of each text that differs from process to process; 0 for null.

Among 100 million different texts, two have the same hash once in 4,000 cases. So rows with equal hashes are candidates:
their texts are compared.
"""


def hash_text(text: str | None) -> int:
    """Hash a text."""
    return 0 if text is None else hash(text)


def hash_texts(column: pa.Array | pa.ChunkedArray) -> Hashes:
    """Hash each text of a column."""
    return np.array([*map(hash_text, column.to_pylist())], np.int64)


def find_repeats(parts: Iterable[Hashes]) -> Hashes:
    """Return the hashes that occur more than once in all parts, except 0: sorted, each once."""
    hashes = np.concatenate([np.empty(0, np.int64), *parts])
    hashes.sort()
    return np.unique(hashes[1:][(hashes[1:] == hashes[:-1]) & (hashes[1:] != 0)])


def is_among(hashes: Hashes, found: Hashes) -> npt.NDArray[np.bool_]:
    """Return for each hash whether it is in `found`, which is sorted."""
    if not len(found):
        return np.zeros(len(hashes), np.bool_)
    return found[np.searchsorted(found, hashes).clip(max=len(found) - 1)] == hashes
