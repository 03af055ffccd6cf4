import os
import threading
import time

import pytest

from shards.format.threads import map_in_threads


def test_results_are_in_the_order_of_the_items():
    def wait(number):
        time.sleep(0.02 * (number % 3 == 0))
        return number

    assert list(map_in_threads(wait, range(50))) == list(range(50))
    assert list(map_in_threads(wait, [])) == []


def test_only_a_few_items_are_taken_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_in_threads(str, items())
    assert next(results) == "0"
    assert len(taken) <= 2 * (os.cpu_count() or 1)
    results.close()
    assert len(taken) < 1000


def test_several_items_are_computed_at_once():
    meeting = threading.Barrier(2)
    assert len([*map_in_threads(lambda _: meeting.wait(60), range(2))]) == 2


def test_an_error_ends_the_rest():
    done = []

    def fail(number):
        if number == 3:
            raise ValueError("3")
        done.append(number)

    with pytest.raises(ValueError, match="3"):
        list(map_in_threads(fail, range(10_000)))
    assert len(done) < 10_000
