"""Lets the ranks of one start find each other in a store that still holds what an earlier start left there.

torchrun's agents keep one store for as long as they live, and ranks that they start anew meet in it again; a rank that
is early would then take an address of before for that of now, and wait for a process that is gone. So each start draws
tokens, agrees on them, and works under a name that follows from them all.
"""

import hashlib
import json
import time
import uuid
from typing import Protocol

POLL = 0.02  # seconds
ROUND = "meeting/round"


class Store(Protocol):
    """What is used of torch.distributed's stores."""

    def set(self, key: str, value: str, /) -> None:
        """Writes a value."""
        ...

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Reads several values."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Says whether all keys are there."""
        ...

    def add(self, key: str, amount: int, /) -> int:
        """Adds to a counter and returns it."""
        ...


def agree_on_round(store: Store, rank: int, size: int, limit: float) -> str:
    """Waits until all ranks of this start are here, and returns a name that no other start has.

    Args:
        store: shared by all ranks.
        rank: this one.
        size: how many there are.
        limit: seconds until the last one has to be here.

    Raises:
        TimeoutError: not all have come.
    """
    token, acknowledged = uuid.uuid4().hex, ""
    tokens = [f"meeting/{each}" for each in range(size)]
    store.set(tokens[rank], token)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        # Rank 0 calls the roll until nobody on it is of an earlier start.
        if rank == 0 and store.check(tokens):
            store.set(ROUND, json.dumps([found.decode() for found in store.multi_get(tokens)]))
        roll: list[str] = json.loads(store.multi_get([ROUND])[0]) if store.check([ROUND]) else []
        if len(roll) == size and roll[rank] == token:
            name = hashlib.sha256("".join(roll).encode()).hexdigest()[:16]
            here = store.add(f"meeting/{name}", int(name != acknowledged))
            acknowledged = name
            if here == size:
                return name
        time.sleep(POLL)
    raise TimeoutError(f"waited {limit:g} s for the others")
