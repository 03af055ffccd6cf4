import itertools
import random

import pytest

from shards.download.host_queue import MAX_DELAY, HostQueue
from shards.format.outcomes import Status
from tests.host_queues import fill, pause_after, refuse, request, urls_of


def test_parallel_requests_to_a_host_are_limited():
    queue = HostQueue(per_host=2)
    fill(queue, *(f"http://a/{i}" for i in range(5)), "http://b/0")
    taken = queue.take(10, now=0)
    assert sorted(urls_of(taken)) == ["http://a/0", "http://a/1", "http://b/0"]
    assert queue.take(10, now=0) == []
    queue.finish(taken[0])
    assert len(queue.take(10, now=0)) == 1
    assert len(queue) == 2


def test_requests_are_released_round_robin_over_hosts():
    queue = HostQueue(per_host=9)
    fill(queue, "http://a/0", "http://a/1", "http://a/2", "http://b/0", "http://c/0")
    assert urls_of(queue.take(3, now=0)) == ["http://a/0", "http://b/0", "http://c/0"]


def test_urls_with_other_ports_are_other_hosts_and_with_other_users_are_not():
    queue = HostQueue(per_host=1)
    fill(queue, "http://a:1/0", "http://a:2/0", "http://me@A:2/1")
    assert len(queue.take(10, now=0)) == 2


def test_a_delayed_request_is_released_at_its_time():
    queue = HostQueue(per_host=9)
    queue.put(request(0, "http://a/0"), not_before=5.0)
    assert queue.take(10, now=4.9) == []
    assert len(queue) == 1
    assert urls_of(queue.take(10, now=5.0)) == ["http://a/0"]
    assert len(queue) == 0


def test_two_requests_for_one_url_are_never_in_flight_together():
    queue = HostQueue(per_host=9)
    fill(queue, "http://a/0", "http://a/0", "http://a/1")
    first = queue.take(10, now=1.0)
    assert urls_of(first) == ["http://a/0", "http://a/1"]
    assert queue.take(10, now=2.0) == []
    queue.finish(first[0])
    assert urls_of(queue.take(10, now=3.0)) == ["http://a/0"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.0, 7.0])
def test_every_request_is_returned_once(seed, rate):
    draw = random.Random(seed)
    queue = HostQueue(per_host=3, rate=rate, jitter=draw.random)
    fill(queue, *(f"http://h{i % 7}/{i % 50}" for i in range(200)))
    rows, in_flight, now = [], [], 0.0
    while len(rows) < 200:
        now += 0.1
        assert now < 1000
        in_flight += [(taken, now) for taken in queue.take(8 - len(in_flight), now)]
        if not in_flight:
            continue
        taken, started = in_flight.pop(0)
        if draw.random() < 0.3:
            queue.record_refusal(taken, started, now)
            queue.put(taken, now + 1)
        else:
            queue.record_answer(taken, started)
            rows.append(taken.row)
        queue.finish(taken)
        rows += [cancelled.row for cancelled in queue.take_cancelled()]
    assert sorted(rows) == list(range(200))
    assert len(queue) == 0


def test_the_rate_limit_applies_to_each_host_separately():
    queue = HostQueue(per_host=100, rate=2.0)
    fill(queue, *(f"http://{host}/{i}" for i in range(40) for host in "ab"))
    times_by_host: dict[str, list[float]] = {"a": [], "b": []}
    for tick in range(100):
        for taken in queue.take(100, now=10 + tick / 10):
            times_by_host[taken.host].append(10 + tick / 10)
            queue.finish(taken)
    for times in times_by_host.values():
        assert 19 <= len(times) <= 21  # in 10 seconds
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert min(gaps) >= 0.2


def test_the_full_rate_is_reached_with_five_polls_a_second():
    queue = HostQueue(per_host=1000, rate=50.0)
    fill(queue, *(f"http://a/{i}" for i in range(1000)))
    taken = [queue.take(100, now=10 + tick / 5) for tick in range(50)]  # for 10 seconds
    assert 490 <= sum(map(len, taken)) <= 515
    assert max(map(len, taken)) <= 14


def test_a_refusal_pauses_that_host_only():
    queue = HostQueue(per_host=4, jitter=lambda: 0.0)
    fill(queue, "http://a/0", "http://a/1", "http://b/0", "http://b/1")
    first, *_ = queue.take(2, now=10)
    queue.record_refusal(first, started=10, now=10)
    queue.finish(first)
    queue.put(request(9, "http://a/9"))
    assert urls_of(queue.take(10, now=10.1)) == ["http://b/1"]
    assert urls_of(queue.take(10, now=10.6)) == ["http://a/1"]


@pytest.mark.parametrize(("jitter", "pauses"), [(0.0, [0.5, 1, 2, 4, 8, 16, 32, 60, 60]), (1.0, [1, 2, 4, 8, 16, 32])])
def test_the_pause_doubles_up_to_a_minute_and_is_reset_by_an_answer(jitter, pauses):
    queue = HostQueue(per_host=9, max_refusals=99, jitter=lambda: jitter)
    fill(queue, "http://a/0", "http://a/1")
    now = 1000.0
    for _ in range(2):
        for pause in pauses:
            (taken,) = queue.take(1, now)
            queue.record_refusal(taken, now, now)
            queue.finish(taken)
            queue.put(taken)
            assert pause_after(queue, now) == pytest.approx(pause, abs=0.011)
            now += pause + 0.02
        (taken,) = queue.take(1, now)
        queue.record_answer(taken, now)
        queue.finish(taken)
        queue.put(taken)


def test_jitter_never_makes_a_pause_shorter_than_retry_after():
    pauses = set()
    for seed in range(20):
        draw = random.Random(seed).random
        queue = HostQueue(per_host=1, jitter=draw)
        fill(queue, "http://a/0", "http://a/1", "http://a/2")
        for now in (1, 10):  # after one refusal, which may concern its URL alone, the host has a short pause only
            (taken,) = queue.take(1, now)
            queue.record_refusal(taken, now, now, retry_after=20.0)
            queue.finish(taken)
        pauses.add(pause_after(queue, 10))
    assert len(pauses) > 10
    assert min(pauses) >= 20
    assert max(pauses) <= 25.01


def test_retry_after_is_limited_to_a_minute():
    queue = HostQueue(per_host=1)
    fill(queue, "http://a/0", "http://a/1", "http://a/2")
    for now in (1, 10):
        (taken,) = queue.take(1, now)
        queue.record_refusal(taken, now, now, retry_after=1e9)
        queue.finish(taken)
    assert 20 < pause_after(queue, 10) <= MAX_DELAY


def test_refusals_of_parallel_requests_count_once():
    queue = HostQueue(per_host=9, jitter=lambda: 1.0)
    fill(queue, *(f"http://a/{i}" for i in range(12)))
    for taken in queue.take(8, now=10):
        queue.record_refusal(taken, started=10, now=10.1)
        queue.finish(taken)
    assert queue.take(1, now=11.0) == []
    assert len(queue.take(9, now=11.2)) == 1


def test_after_a_refusal_one_request_at_a_time_probes_the_host():
    queue = HostQueue(per_host=8, jitter=lambda: 1.0)
    fill(queue, *(f"http://a/{i}" for i in range(50)))
    for taken in queue.take(1, now=10):
        queue.record_refusal(taken, started=10, now=10)
        queue.finish(taken)
    (probe,) = queue.take(50, now=20)
    assert queue.take(50, now=30) == []
    queue.record_answer(probe, started=20)
    queue.finish(probe)
    assert len(queue.take(50, now=30)) == 4  # half of the previous limit; it grows with each answer


def test_the_parallel_limit_grows_again_with_answers():
    queue = HostQueue(per_host=8)
    fill(queue, *(f"http://a/{i}" for i in range(200)))
    (taken,) = queue.take(1, now=10)
    queue.record_refusal(taken, started=10, now=10)
    queue.finish(taken)
    now = 100.0
    for _ in range(60):
        (taken,) = queue.take(1, now)
        queue.record_answer(taken, started=now)
        queue.finish(taken)
        now += 1
    assert len(queue.take(50, now)) == 8


def test_an_answer_to_an_earlier_request_does_not_end_a_pause():
    queue = HostQueue(per_host=8, jitter=lambda: 1.0)
    fill(queue, *(f"http://a/{i}" for i in range(50)))
    slow, refused = queue.take(2, now=10)
    queue.record_refusal(refused, started=10, now=11)
    queue.finish(refused)
    queue.record_answer(slow, started=10)
    queue.finish(slow)
    assert queue.take(50, now=11.9) == []
    assert len(queue.take(50, now=12.1)) == 1


def test_only_the_requests_of_a_host_that_keeps_refusing_are_cancelled():
    queue = HostQueue(per_host=4, max_refusals=3)
    fill(queue, *(f"http://a/{i}" for i in range(20)))
    queue.put(request(99, "http://a/99"), not_before=1e9)
    now, tries = 1.0, 0
    while not (cancelled := queue.take_cancelled()):
        now += 100
        tries += 1
        assert tries < 10
        refuse(queue, now)
    assert tries == 3
    assert {one.url for one in cancelled} >= {"http://a/19", "http://a/99"}
    assert {one.host for one in cancelled} == {"a"}
    assert {one.last_status for one in cancelled} == {Status.CANCELLED}
    assert len(queue) == 0
    fill(queue, "http://a/100", "http://b/1")
    assert len(queue) == 2
    assert urls_of(queue.take(9, now)) == ["http://b/1"]
    assert urls_of(queue.take_cancelled()) == ["http://a/100"]


def test_a_host_without_requests_or_refusals_is_forgotten():
    queue = HostQueue(per_host=4)
    fill(queue, *(f"http://h{i}/0" for i in range(1000)))
    for taken in queue.take(1000, now=1):
        queue.record_answer(taken, started=1)
        queue.finish(taken)
    assert len(queue._hosts) == 0


def test_urls_that_aria2_logs_in_the_same_way_are_not_in_flight_together():
    queue = HostQueue(per_host=9)
    fill(
        queue,
        "http://a/0#x",
        "http://a/0#y",
        "http://me@A/0",
        "https://a/0",
        "http://a/0?q",
        "http://b/\u00e9",
        "http://b/%C3%A9",
    )
    assert urls_of(queue.take(10, now=1.0)) == ["http://a/0#x", "http://b/\u00e9", "http://a/0?q"]


def test_the_queue_describes_what_it_waits_for():
    queue = HostQueue(per_host=4, jitter=lambda: 1.0)
    assert queue.next_wait(1.0) is None
    fill(queue, "http://a/0", "http://a/1", "http://a/2")
    assert queue.next_wait(1.0) is None
    (taken,) = queue.take(1, 1.0)
    queue.record_refusal(taken, 1.0, 1.0)
    assert queue.next_wait(1.0) is None  # it is in flight
    queue.finish(taken)
    queue.put(request(9, "http://b/0"), not_before=40.0)
    assert queue.next_wait(1.25) == (2, "a", 0.75)


def test_the_queue_describes_the_wait_for_a_host_whose_only_request_is_delayed():
    queue = HostQueue(per_host=4)
    fill(queue, "http://a/0")
    (taken,) = queue.take(1, 1.0)
    queue.finish(taken)
    queue.put(taken, not_before=40.0)
    assert queue.next_wait(30.0) == (1, "a", 10.0)
