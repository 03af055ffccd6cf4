"""A host may refuse single URLs again and again, or everything: the queue tells one from the other."""

import dataclasses

from shards.download.host_queue import HostQueue
from shards.format.outcomes import Status
from tests.host_queues import fill, pause_after, refuse, request


def refused_before(queue: HostQueue, url: str, *, retry_at: float) -> None:
    """Queue a request for a URL that was refused once."""
    queue.put(dataclasses.replace(request(0, url), attempts=1, last_status=Status.RATE_LIMITED), retry_at)


def refuse_again(queue: HostQueue, url: str, now: float) -> None:
    """Refuse a URL that was refused before; three times in a row, and the host is known to refuse single URLs."""
    refused_before(queue, url, retry_at=now)
    (taken,) = queue.take(1, now)
    assert taken.url == url
    queue.record_refusal(taken, now, now)
    queue.finish(taken)


def answer(queue: HostQueue, now: float, count: int) -> None:
    """Take `count` requests, first attempts, and record an answer for each."""
    for taken in queue.take(count, now):
        queue.record_answer(dataclasses.replace(taken, attempts=1), now)
        queue.finish(taken)


def test_a_host_that_refuses_single_urls_again_and_answers_others_is_not_paused():
    queue = HostQueue(per_host=4)
    fill(queue, *(f"http://a/{i}" for i in range(60)))
    answer(queue, 1.0, 4)
    for now in (10.0, 20.0, 30.0):
        answer(queue, now, 1)
        refuse_again(queue, "http://a/bad", now)
    answer(queue, 40.0, 1)
    (refused,) = queue.take(1, 41.0)
    queue.record_refusal(refused, 41.0, 41.0, retry_after=30.0)
    queue.finish(refused)
    assert len(queue.take(9, 41.0)) > 1


def test_waits_of_urls_that_were_refused_before_overlap():
    queue = HostQueue(per_host=16)
    for now in (1.0, 100.0, 200.0):
        refuse_again(queue, "http://a/0", now)
    for i in range(16):
        refused_before(queue, f"http://a/bad{i}", retry_at=300.0)
    (probe,) = queue.take(99, 300.0)
    queue.record_answer(probe, 300.0)
    queue.finish(probe)
    taken = queue.take(99, 300.0)
    assert len(taken) > 1
    for one in taken:
        queue.record_refusal(one, 300.0, 300.1)
        queue.finish(one)
        refused_before(queue, one.url, retry_at=302.0)
    assert len(queue.take(99, 302.0)) == len(taken)
    assert queue.take_cancelled() == []


def test_a_host_that_refuses_all_urls_again_is_paused():
    queue = HostQueue(per_host=4, max_refusals=99, jitter=lambda: 1.0)
    fill(queue, *(f"http://a/{i}" for i in range(12)))
    for step in range(1, 13):
        refuse(queue, 100.0 * step)
    for step in range(4):
        refuse_again(queue, "http://a/bad", 10_000.0 + 100 * step)
    refused_before(queue, "http://a/bad", retry_at=10_300.0)
    assert queue.take(9, 10_310.0) == []


def test_repeated_refusals_of_one_url_neither_lengthen_the_pause_nor_cancel():
    queue = HostQueue(per_host=4, max_refusals=3, jitter=lambda: 1.0)
    fill(queue, "http://a/0")
    refuse(queue, 1.0)
    for step in range(1, 9):
        refuse_again(queue, "http://a/bad", 100.0 * step)
        assert queue.take_cancelled() == []
        fill(queue, f"http://a/{step}")
        assert pause_after(queue, 100.0 * step) <= 1.01
        answer(queue, 100.0 * step + 50, 1)


def test_a_host_that_starts_to_refuse_everything_is_cancelled_after_a_few_more_refusals():
    queue = HostQueue(per_host=4, max_refusals=3)
    fill(queue, *(f"http://a/{i}" for i in range(500)))
    now, requests = 1.0, 0
    for _ in range(50):
        now += 1
        answer(queue, now, 4)
    while not queue.take_cancelled():
        now += 100
        for taken in queue.take(99, now):
            queue.record_refusal(taken, now, now)
            queue.finish(taken)
            requests += 1
    assert requests <= 4 + 3
