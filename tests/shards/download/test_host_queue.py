import itertools
import random
from pathlib import Path

import pytest

from shards.download.host_queue import MAX_DELAY, HostQueue, Request
from shards.format.outcomes import Status


def request(row: int, url: str) -> Request:
    return Request(row, url, Path("x"))


def fill(turns: HostQueue, *urls: str) -> None:
    for row, url in enumerate(urls):
        turns.put(request(row, url))


def urls_of(requests: list[Request]) -> list[str]:
    return [taken.url for taken in requests]


def refuse(turns: HostQueue, now: float, retry_after: float = 0.0) -> None:
    """Asks for whatever has its turn, and is refused at once."""
    for taken in turns.take(100, now):
        turns.refused(taken, now, now, retry_after)
        turns.done(taken)


def pause_after(turns: HostQueue, now: float) -> float:
    """Returns how long after `now` the next request gets its turn, to a hundredth."""
    for step in range(1, 100 * 100):
        taken = turns.take(1, now + step / 100)
        if taken:
            turns.done(taken[0])
            turns.put(taken[0])
            return step / 100
    raise AssertionError("it never got one")


def test_a_host_gets_no_more_than_its_share():
    turns = HostQueue(per_host=2)
    fill(turns, *(f"http://a/{i}" for i in range(5)), "http://b/0")
    taken = turns.take(10, now=0)
    assert sorted(urls_of(taken)) == ["http://a/0", "http://a/1", "http://b/0"]
    assert turns.take(10, now=0) == []
    turns.done(taken[0])
    assert len(turns.take(10, now=0)) == 1
    assert len(turns) == 2


def test_hosts_take_turns():
    turns = HostQueue(per_host=9)
    fill(turns, "http://a/0", "http://a/1", "http://a/2", "http://b/0", "http://c/0")
    assert urls_of(turns.take(3, now=0)) == ["http://a/0", "http://b/0", "http://c/0"]


def test_ports_are_different_hosts_and_users_are_not():
    turns = HostQueue(per_host=1)
    fill(turns, "http://a:1/0", "http://a:2/0", "http://me@A:2/1")
    assert len(turns.take(10, now=0)) == 2


def test_a_request_waits_until_its_time():
    turns = HostQueue(per_host=9)
    turns.put(request(0, "http://a/0"), not_before=5.0)
    assert turns.take(10, now=4.9) == []
    assert len(turns) == 1
    assert urls_of(turns.take(10, now=5.0)) == ["http://a/0"]
    assert len(turns) == 0


def test_one_url_is_never_out_twice():
    turns = HostQueue(per_host=9)
    fill(turns, "http://a/0", "http://a/0", "http://a/1")
    first = turns.take(10, now=1.0)
    assert urls_of(first) == ["http://a/0", "http://a/1"]
    assert turns.take(10, now=2.0) == []
    turns.done(first[0])
    assert urls_of(turns.take(10, now=3.0)) == ["http://a/0"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.0, 7.0])
def test_everything_comes_out_once(seed, rate):
    draw = random.Random(seed)
    turns = HostQueue(per_host=3, rate=rate, draw=draw.random)
    fill(turns, *(f"http://h{i % 7}/{i % 50}" for i in range(200)))
    rows, out, now = [], [], 0.0
    while len(rows) < 200:
        now += 0.1
        assert now < 1000
        out += [(taken, now) for taken in turns.take(8 - len(out), now)]
        if not out:
            continue
        taken, began = out.pop(0)
        if draw.random() < 0.3:
            turns.refused(taken, began, now)
            turns.put(taken, now + 1)
        else:
            turns.answered(taken, began)
            rows.append(taken.row)
        turns.done(taken)
        rows += [given_up.row for given_up in turns.take_given_up()]
    assert sorted(rows) == list(range(200))
    assert len(turns) == 0


def test_a_rate_holds_for_each_host_by_itself():
    turns = HostQueue(per_host=100, rate=2.0)
    fill(turns, *(f"http://{host}/{i}" for i in range(40) for host in "ab"))
    came: dict[str, list[float]] = {"a": [], "b": []}
    for tick in range(100):
        for taken in turns.take(100, now=10 + tick / 10):
            came[taken.host].append(10 + tick / 10)
            turns.done(taken)
    for times in came.values():
        assert 19 <= len(times) <= 21  # in 10 seconds
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert min(gaps) >= 0.2


def test_a_rate_is_reached_by_one_who_looks_seldom():
    turns = HostQueue(per_host=1000, rate=50.0)
    fill(turns, *(f"http://a/{i}" for i in range(1000)))
    taken = [turns.take(100, now=10 + tick / 5) for tick in range(50)]  # for 10 seconds
    assert 490 <= sum(map(len, taken)) <= 515
    assert max(map(len, taken)) <= 14


def test_a_host_that_refuses_rests_and_the_others_do_not():
    turns = HostQueue(per_host=4, draw=lambda: 0.0)
    fill(turns, "http://a/0", "http://a/1", "http://b/0", "http://b/1")
    first, *_ = turns.take(2, now=10)
    turns.refused(first, began=10, now=10)
    turns.done(first)
    turns.put(request(9, "http://a/9"))
    assert urls_of(turns.take(10, now=10.1)) == ["http://b/1"]
    assert urls_of(turns.take(10, now=10.6)) == ["http://a/1"]


@pytest.mark.parametrize(("jitter", "pauses"), [(0.0, [0.5, 1, 2, 4, 8, 16, 32, 60, 60]), (1.0, [1, 2, 4, 8, 16, 32])])
def test_the_rest_doubles_up_to_a_minute_and_starts_anew_after_an_answer(jitter, pauses):
    turns = HostQueue(per_host=9, patience=99, draw=lambda: jitter)
    fill(turns, "http://a/0", "http://a/1")
    now = 1000.0
    for _ in range(2):
        for pause in pauses:
            (taken,) = turns.take(1, now)
            turns.refused(taken, now, now)
            turns.done(taken)
            turns.put(taken)
            assert pause_after(turns, now) == pytest.approx(pause, abs=0.011)
            now += pause + 0.02
        (taken,) = turns.take(1, now)
        turns.answered(taken, now)
        turns.done(taken)
        turns.put(taken)


def test_jitter_only_shortens_the_rest_and_never_what_the_host_asked_for():
    rests = set()
    for seed in range(20):
        draw = random.Random(seed).random
        turns = HostQueue(per_host=9, draw=draw)
        fill(turns, "http://a/0", "http://a/1")
        (taken,) = turns.take(1, 10)
        turns.refused(taken, 10, 10, retry_after=20.0)
        turns.done(taken)
        rests.add(pause_after(turns, 10))
    assert len(rests) > 10
    assert min(rests) >= 20
    assert max(rests) <= 25.01


def test_no_host_is_believed_for_more_than_a_minute():
    turns = HostQueue(per_host=9)
    fill(turns, "http://a/0", "http://a/1")
    (taken,) = turns.take(1, 10)
    turns.refused(taken, 10, 10, retry_after=1e9)
    turns.done(taken)
    assert pause_after(turns, 10) <= MAX_DELAY


def test_refusals_of_requests_that_were_out_together_count_once():
    turns = HostQueue(per_host=9, draw=lambda: 1.0)
    fill(turns, *(f"http://a/{i}" for i in range(12)))
    for taken in turns.take(8, now=10):
        turns.refused(taken, began=10, now=10.1)
        turns.done(taken)
    assert turns.take(1, now=11.0) == []
    assert len(turns.take(9, now=11.2)) == 1


def test_one_request_at_a_time_finds_out_whether_it_still_refuses():
    turns = HostQueue(per_host=8, draw=lambda: 1.0)
    fill(turns, *(f"http://a/{i}" for i in range(50)))
    for taken in turns.take(1, now=10):
        turns.refused(taken, began=10, now=10)
        turns.done(taken)
    (probe,) = turns.take(50, now=20)
    assert turns.take(50, now=30) == []
    turns.answered(probe, began=20)
    turns.done(probe)
    assert len(turns.take(50, now=30)) == 4  # half of what it bore before, and more with each answer


def test_room_grows_again_with_answers():
    turns = HostQueue(per_host=8)
    fill(turns, *(f"http://a/{i}" for i in range(200)))
    (taken,) = turns.take(1, now=10)
    turns.refused(taken, began=10, now=10)
    turns.done(taken)
    now = 100.0
    for _ in range(60):
        (taken,) = turns.take(1, now)
        turns.answered(taken, began=now)
        turns.done(taken)
        now += 1
    assert len(turns.take(50, now)) == 8


def test_an_old_answer_does_not_end_a_rest():
    turns = HostQueue(per_host=8, draw=lambda: 1.0)
    fill(turns, *(f"http://a/{i}" for i in range(50)))
    slow, refused = turns.take(2, now=10)
    turns.refused(refused, began=10, now=11)
    turns.done(refused)
    turns.answered(slow, began=10)
    turns.done(slow)
    assert turns.take(50, now=11.9) == []
    assert len(turns.take(50, now=12.1)) == 1


def test_a_host_that_never_stops_refusing_is_given_up_alone():
    turns = HostQueue(per_host=4, patience=3)
    fill(turns, *(f"http://a/{i}" for i in range(20)))
    turns.put(request(99, "http://a/99"), not_before=1e9)
    now, tries = 1.0, 0
    while not (given_up := turns.take_given_up()):
        now += 100
        tries += 1
        assert tries < 10
        refuse(turns, now)
    assert tries == 3
    assert {one.url for one in given_up} >= {"http://a/19", "http://a/99"}
    assert {one.host for one in given_up} == {"a"}
    assert {one.ending for one in given_up} == {Status.CANCELLED}
    assert len(turns) == 0
    fill(turns, "http://a/100", "http://b/1")
    assert len(turns) == 2
    assert urls_of(turns.take(9, now)) == ["http://b/1"]
    assert urls_of(turns.take_given_up()) == ["http://a/100"]


def test_hosts_that_are_done_with_are_forgotten():
    turns = HostQueue(per_host=4)
    fill(turns, *(f"http://h{i}/0" for i in range(1000)))
    for taken in turns.take(1000, now=1):
        turns.answered(taken, began=1)
        turns.done(taken)
    assert len(turns._hosts) == 0
