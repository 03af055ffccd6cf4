"""The hash that a list may give of a picture's bytes, in a column sha256 or md5."""

import hashlib
import json

COLUMNS = ("sha256", "md5")


def find_mismatch(extra: str, body: bytes) -> str | None:
    """Says in one line how a body differs from what the list promises, or None.

    Args:
        extra: the row's further columns, as a JSON object; a hash may be missing or empty.
        body: as it came.
    """
    if not any(f'"{name}"' in extra for name in COLUMNS):  # as for most lists
        return None
    columns = json.loads(extra)
    for name in COLUMNS:
        expected = str(columns.get(name) or "").strip().lower()
        if not expected:
            continue
        found = hashlib.new(name, body, usedforsecurity=False).hexdigest()
        if found != expected:
            return f"its {name} is {found}, where the list has {expected[:100]}"
    return None
