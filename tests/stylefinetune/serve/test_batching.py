import concurrent.futures
import threading

import numpy as np
import pytest
import torch

from stylefinetune.serve.batching import BatchingNetwork

WAIT = 60  # seconds, for what comes soon


class Gate:
    """Computes the sum of each picture; the first batch waits until it is opened."""

    def __init__(self, is_open=False):
        self.sizes = []
        self.has_begun, self.is_open = threading.Event(), threading.Event()
        if is_open:
            self.is_open.set()

    def __call__(self, pictures):
        self.sizes.append(len(pictures))
        self.has_begun.set()
        assert self.is_open.wait(WAIT)
        if (pictures == 13).any():
            raise RuntimeError("thirteen")
        return pictures.flatten(1).sum(1, keepdim=True)


def pixels(value):
    return np.full((2, 2, 3), value, np.uint8)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def network(gate):
    opened = BatchingNetwork(gate, max_batch=4, max_wait=0.0)
    yield opened
    gate.is_open.set()
    opened.close()
    assert not opened._thread.is_alive()


def test_pictures_that_arrive_during_a_batch_are_computed_together(network, gate):
    futures = [network.submit(pixels(0))]
    assert gate.has_begun.wait(WAIT)
    futures += [network.submit(pixels(value)) for value in range(1, 7)]
    gate.is_open.set()
    assert [future.result(WAIT).item() for future in futures] == [12 * value for value in range(7)]
    assert gate.sizes == [1, 4, 2]


def test_the_first_of_a_batch_waits_for_others():
    gate = Gate(is_open=True)
    network = BatchingNetwork(gate, max_batch=2, max_wait=WAIT)  # it ends with the second, not with the time
    futures = [network.submit(pixels(value)) for value in (1, 2)]
    assert [future.result(WAIT).item() for future in futures] == [12, 24]
    assert gate.sizes == [2]
    waiting = network.submit(pixels(3))
    network.close()  # it doesn't wait any longer
    assert waiting.result(0).item() == 36


def test_an_error_fails_its_batch_only(network, gate):
    first = network.submit(pixels(0))
    assert gate.has_begun.wait(WAIT)
    failing = [network.submit(pixels(value)) for value in (1, 2, 13, 4)]
    last = network.submit(pixels(5))
    gate.is_open.set()
    assert first.result(WAIT) == torch.zeros(1)
    for future in failing:
        with pytest.raises(RuntimeError, match="thirteen"):
            future.result(WAIT)
    assert last.result(WAIT).item() == 60


def test_what_is_cancelled_is_not_computed(network, gate):
    network.submit(pixels(0))
    assert gate.has_begun.wait(WAIT)
    cancelled, last = network.submit(pixels(13)), network.submit(pixels(1))
    assert cancelled.cancel()
    gate.is_open.set()
    assert last.result(WAIT).item() == 12
    assert gate.sizes == [1, 1]
    with pytest.raises(concurrent.futures.CancelledError):
        cancelled.result(0)
