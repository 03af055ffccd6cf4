from pathlib import Path

from shards.hosts import Request, Turns


def request(row: int, url: str) -> Request:
    return Request(row, url, Path("x"))


def fill(turns: Turns, *urls: str) -> None:
    for row, url in enumerate(urls):
        turns.put(request(row, url))


def urls_of(requests: list[Request]) -> list[str]:
    return [taken.url for taken in requests]


def test_a_host_gets_no_more_than_its_share():
    turns = Turns(per_host=2)
    fill(turns, *(f"http://a/{i}" for i in range(5)), "http://b/0")
    taken = turns.take(10, now=0)
    assert sorted(urls_of(taken)) == ["http://a/0", "http://a/1", "http://b/0"]
    assert turns.take(10, now=0) == []
    turns.done(taken[0])
    assert len(turns.take(10, now=0)) == 1
    assert len(turns) == 2


def test_hosts_take_turns():
    turns = Turns(per_host=9)
    fill(turns, "http://a/0", "http://a/1", "http://a/2", "http://b/0", "http://c/0")
    assert urls_of(turns.take(3, now=0)) == ["http://a/0", "http://b/0", "http://c/0"]


def test_ports_are_different_hosts_and_users_are_not():
    turns = Turns(per_host=1)
    fill(turns, "http://a:1/0", "http://a:2/0", "http://me@A:2/1")
    assert len(turns.take(10, now=0)) == 2


def test_a_request_waits_until_its_time():
    turns = Turns(per_host=9)
    turns.put(request(0, "http://a/0"), not_before=5.0)
    assert turns.take(10, now=4.9) == []
    assert len(turns) == 1
    assert urls_of(turns.take(10, now=5.0)) == ["http://a/0"]
    assert len(turns) == 0


def test_one_url_is_never_out_twice():
    turns = Turns(per_host=9)
    fill(turns, "http://a/0", "http://a/0", "http://a/1")
    first = turns.take(10, now=1.0)
    assert urls_of(first) == ["http://a/0", "http://a/1"]
    assert turns.take(10, now=2.0) == []
    turns.done(first[0])
    assert urls_of(turns.take(10, now=3.0)) == ["http://a/0"]


def test_everything_comes_out_once():
    turns = Turns(per_host=3)
    fill(turns, *(f"http://h{i % 7}/{i % 50}" for i in range(200)))
    rows, out, now = [], [], 0.0
    while len(rows) < 200:
        now += 1.0
        assert now < 1000
        out += turns.take(8 - len(out), now)
        taken = out.pop(0)
        rows.append(taken.row)
        turns.done(taken)
    assert sorted(rows) == list(range(200))
    assert len(turns) == 0
