"""Calls a function for many items in threads, of which only a few wait in memory."""

import collections
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2  # items per thread that are being computed, or whose results wait


def map_in_threads(function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """Yield the results in the order of the items; `function` runs on all cores if it releases the GIL.

    `Executor.map` would take all items at once.
    """
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads)
    waiting: collections.deque[Future[R]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
