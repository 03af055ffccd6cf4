import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from stylefinetune.distributed.rendezvous import agree_on_round


def start(store, size, late=()):
    """Lets ranks meet, those of `late` after the others have waited a while; returns the name that each got."""

    def come(rank):
        time.sleep(0.3 if rank in late else random.random() * 0.05)
        return agree_on_round(store, rank, size, 20)

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(come, range(size)))


@pytest.mark.parametrize("late", [(), (0,), (1, 3)])
def test_ranks_started_anew_never_take_what_an_earlier_start_left_for_their_own(late):
    store = dist.HashStore()
    names = [start(store, size, late) for size in (4, 4, 4, 6, 4)]
    assert all(len(set(name)) == 1 for name in names)
    assert len({name[0] for name in names}) == 5


def test_a_start_that_came_to_nothing_is_forgotten():
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as ranks:
        lost = [ranks.submit(agree_on_round, store, rank, 3, 0.3) for rank in (0, 2)]  # rank 1 never comes
        for each in lost:
            with pytest.raises(TimeoutError, match=r"waited 0\.3 s"):
                each.result()
    assert len(set(start(store, 3))) == 1
