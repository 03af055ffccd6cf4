from stylefinetune.serve import rate_limit
from stylefinetune.serve.rate_limit import RateLimit, client_network


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_client_has_a_burst_and_then_the_rate():
    clock = Clock()
    limit = RateLimit(10, clock)
    assert [limit.take("10.0.0.1") for _ in range(20)] == [0.0] * 20
    assert abs(limit.take("10.0.0.1") - 0.1) < 1e-9
    assert limit.take("10.0.0.2") == 0.0
    clock.now = 0.25
    assert [limit.take("10.0.0.1") > 0 for _ in range(3)] == [False, False, True]
    clock.now = 100
    assert [limit.take("10.0.0.1") for _ in range(20)] == [0.0] * 20


def test_a_low_rate_allows_some_requests_at_once():
    limit = RateLimit(0.01, Clock())
    assert [limit.take("a") > 0 for _ in range(11)] == [False] * 10 + [True]


def test_zero_is_no_limit():
    limit = RateLimit(0)
    assert {limit.take("10.0.0.1") for _ in range(1000)} == {0.0}


def test_to_ask_how_long_to_wait_counts_nothing():
    clock = Clock()
    limit = RateLimit(10, clock)
    assert [limit.wait("a") for _ in range(50)] == [0.0] * 50
    assert [limit.take("a") for _ in range(20)] == [0.0] * 20
    assert limit.wait("a") == limit.take("a") > 0
    clock.now = 0.2
    assert limit.wait("a") == 0


def test_clients_that_have_paused_are_forgotten(monkeypatch):
    monkeypatch.setattr(rate_limit, "_MOST_CLIENTS", 100)
    clock = Clock()
    limit = RateLimit(10, clock)
    for number in range(1000):
        clock.now += 1
        limit.take(f"client {number}")
    assert len(limit._empty_at) <= 100


def test_a_client_is_an_address_or_a_network_of_ipv6():
    assert client_network("192.0.2.7") == "192.0.2.7"
    assert client_network("2001:db8:1:2:3::4") == client_network("2001:db8:1:2::9%eth0") == "2001:db8:1:2::/64"
    assert client_network("::ffff:192.0.2.7") == "192.0.2.7"
    assert client_network("") == ""
