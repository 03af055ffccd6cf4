"""Fills a queue of requests, refuses what it releases, and measures its pauses."""

from pathlib import Path

from shards.download.host_queue import HostQueue, Request


def request(row: int, url: str) -> Request:
    return Request(row, url, Path("x"))


def fill(queue: HostQueue, *urls: str) -> None:
    for row, url in enumerate(urls):
        queue.put(request(row, url))


def urls_of(requests: list[Request]) -> list[str]:
    return [taken.url for taken in requests]


def refuse(queue: HostQueue, now: float, retry_after: float = 0.0) -> None:
    """Take every released request and record a refusal for it."""
    for taken in queue.take(100, now):
        queue.record_refusal(taken, now, now, retry_after)
        queue.finish(taken)


def pause_after(queue: HostQueue, now: float) -> float:
    """Return how long after `now` the next request is released, rounded up to 0.01 s."""
    for step in range(1, 100 * 100):
        taken = queue.take(1, now + step / 100)
        if taken:
            queue.finish(taken[0])
            queue.put(taken[0])
            return step / 100
    raise AssertionError("no request was released")
