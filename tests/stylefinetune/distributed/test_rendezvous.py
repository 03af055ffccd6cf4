import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from stylefinetune.distributed.rendezvous import agree_on_round


def start(store, size, late=()):
    """Start ranks, those in `late` after the others; return the name that each rank gets."""

    def join(rank):
        time.sleep(0.3 if rank in late else random.random() * 0.05)
        return agree_on_round(store, rank, size, 20)

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(join, range(size)))


@pytest.mark.parametrize("late", [(), (0,), (1, 3)])
def test_restarted_ranks_ignore_the_keys_of_earlier_starts(late):
    store = dist.HashStore()
    names = [start(store, size, late) for size in (4, 4, 4, 6, 4)]
    assert all(len(set(name)) == 1 for name in names)
    assert len({name[0] for name in names}) == 5


def test_the_keys_of_an_incomplete_start_are_ignored():
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as ranks:
        waiting = [ranks.submit(agree_on_round, store, rank, 3, 0.3) for rank in (0, 2)]  # rank 1 is missing
        for each in waiting:
            with pytest.raises(TimeoutError, match=r"waited 0\.3 s"):
                each.result()
    assert len(set(start(store, 3))) == 1
