import numpy as np
import pytest

from shards.format.columns import Names
from shards.format.order import DataOrder, ShuffleWindow
from stylefinetune.data.staging.stream_plan import StreamPlan

SHARDS, ROWS = 20, 10  # of each
NAMES = [f"train/{number:05d}.tar" for number in range(SHARDS)]
CODES = np.repeat(np.arange(SHARDS), ROWS)
SIZES = dict.fromkeys(NAMES, 1000)


def plan(window, batch_size=4):
    chosen = ShuffleWindow.from_index(window, CODES, np.tile(np.arange(ROWS), SHARDS)) if window else None
    order = DataOrder(len(CODES), window is not None, 1, chosen)
    return StreamPlan(order, Names(NAMES, CODES), batch_size, SIZES), order


def used(order, start, stop):
    return [NAMES[CODES[row]] for row in order.rows_at(range(start, stop))]


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("start", [0, 57, 195, 1234])
def test_the_shards_from_a_position_are_those_of_the_next_pictures_in_order_of_use(window, start):
    planned, order = plan(window)
    shards = planned.shards_from(start, 8000, 10**6)
    assert len(shards) <= 8
    following = list(dict.fromkeys(used(order, start // ROWS * ROWS, start + 1000)))
    assert shards == following[: len(shards)]
    assert set(used(order, start, start + ROWS)) <= set(shards)


def test_all_shards_are_chosen_once_if_they_fit():
    planned, _ = plan(3)
    assert sorted(planned.shards_from(0, 20_000, 10**6)) == NAMES


def test_the_shards_of_a_batch_are_chosen_whatever_the_limit():
    planned, order = plan(2, batch_size=15)
    assert planned.part_size == 15
    for start in range(0, 400, 15):
        assert set(used(order, start, start + 15)) <= set(planned.shards_from(start, 1, 10**6))


def test_nothing_is_chosen_beyond_the_end_of_the_run():
    planned, order = plan(None)
    assert planned.shards_from(30, 10**6, 45) == list(dict.fromkeys(used(order, 30, 50)))


@pytest.mark.parametrize(("window", "most"), [(None, 2), (1, 3), (3, 6)])
def test_the_bytes_that_are_needed_at_a_time_grow_with_the_window(window, most):
    planned, _ = plan(window)
    assert planned.needed_bytes() <= most * 1000
    whole, _ = plan(SHARDS)
    assert whole.needed_bytes() >= 14_000
