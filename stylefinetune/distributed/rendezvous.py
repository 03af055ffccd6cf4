"""Gives each start of the ranks a separate name in torchrun's store, which still holds keys of earlier starts.

torchrun's agents keep one store while they live, and restarted ranks use it again. A rank that is early could read an
address of the previous start and wait for a process that has exited. So the ranks of each start publish random tokens
and agree on them; the name of the round, a prefix for all other keys, is the hash of the tokens.
"""

import hashlib
import json
import time
import uuid

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage] -- documented all the same

POLL_SECONDS = 0.02
ROUND = "rendezvous/round"


def agree_on_round(store: Store, rank: int, size: int, limit: float) -> str:
    """Wait until all ranks of this start have joined, and return a name that no other start has.

    Raises:
        TimeoutError: a rank is still missing after `limit` seconds.
    """
    token, acknowledged = uuid.uuid4().hex, ""
    token_keys = [f"rendezvous/{each}" for each in range(size)]
    store.set(token_keys[rank], token)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        # Rank 0 publishes the tokens again and again, until they contain no token of an earlier start.
        if rank == 0 and store.check(token_keys):
            store.set(ROUND, json.dumps([found.decode() for found in store.multi_get(token_keys)]))
        tokens: list[str] = json.loads(store.multi_get([ROUND])[0]) if store.check([ROUND]) else []
        if len(tokens) == size and tokens[rank] == token:
            name = hashlib.sha256("".join(tokens).encode()).hexdigest()[:16]
            joined = store.add(f"rendezvous/{name}", int(name != acknowledged))
            acknowledged = name
            if joined == size:
                return name
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"waited {limit:g} s for the other ranks")
