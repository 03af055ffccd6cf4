import concurrent.futures
import ipaddress
import socket
import threading
import time

import pytest

from stylefinetune.prediction import fetch
from stylefinetune.prediction.fetch import PARALLEL, Fetcher
from stylefinetune.prediction.pictures import FetchLimits, PrivateAddress, UnreadablePicture
from tests.loopback import Answer, redirect

WAIT = 60  # seconds, for a result that comes soon


@pytest.fixture
def fetcher_of(monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        opened = []

        def open_fetcher(**limits):
            opened.append(Fetcher(FetchLimits(**({"allow_private": True} | limits)), pool))
            return opened[-1]

        yield open_fetcher
        for each in opened:
            each.close()


def reason_of(future):
    with pytest.raises(UnreadablePicture) as raised:
        future.result(WAIT)
    return str(raised.value)


def test_the_body_is_decoded_in_the_pool(fetcher_of, server):
    url = server.add("/a", redirect("/b"))
    server.add("/b", Answer(b"body"))
    threads = []
    future = fetcher_of().submit(url, lambda body: threads.append(threading.current_thread().name) or body * 2)
    assert future.result(WAIT) == b"bodybody"
    assert threads[0].startswith("ThreadPoolExecutor")
    assert server.requests[0].headers["User-Agent"] == "stylefinetune"


def test_an_error_that_may_pass_is_tried_again(fetcher_of, server):
    for number, bad in enumerate([Answer(status=503), Answer(status=429), Answer(b"12345678", transfer="truncated")]):
        url = server.add(f"/{number}", bad, Answer(b"good"))
        assert fetcher_of().submit(url, bytes).result(WAIT) == b"good"
    url = server.add("/always", Answer(status=500))
    assert reason_of(fetcher_of().submit(url, bytes)) == "can't be fetched: the server answers 500"
    assert len(server.request_times("/always")) == 3


def test_an_error_that_lasts_is_not_tried_again(fetcher_of, server):
    assert reason_of(fetcher_of().submit(f"{server.url}/gone", bytes)) == "can't be fetched: the server answers 404"
    assert len(server.requests) == 1
    assert "InvalidUrl" in reason_of(fetcher_of().submit("http://", bytes))
    loop = server.add("/loop", redirect("/loop"))
    assert "TooManyRedirects" in reason_of(fetcher_of().submit(loop, bytes))
    assert len(server.requests) <= 10


def test_a_body_without_end_and_a_server_without_answer_are_given_up(fetcher_of, server):
    endless = server.add("/endless", Answer(bytes(1000), transfer="endless"))
    assert "more than 5,000 bytes" in reason_of(fetcher_of(max_bytes=5000).submit(endless, bytes))
    stalled = server.add("/stalled", Answer(b"12345678", transfer="stall"))
    assert "no complete answer within 0.2 s" in reason_of(fetcher_of(seconds=0.2).submit(stalled, bytes))


def test_private_addresses_are_refused_at_any_redirect_and_by_any_name(fetcher_of, server, monkeypatch):
    port = server.url.rpartition(":")[2]
    public = fetcher_of(allow_private=False)
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        assert "is not a public address; to allow it, give --allow_private" in reason_of(
            public.submit(f"http://{host}:{port}/a", bytes)
        ), host
    assert server.requests == []
    # A server with a public address may redirect to a private one.
    monkeypatch.setattr(
        fetch, "_open_public_socket", lambda info, check=fetch._open_public_socket: _public_port(info, port, check)
    )
    with LoopbackPair(server) as (url, inner):
        assert "is not a public address" in reason_of(fetcher_of(allow_private=False).submit(url, bytes))
        assert inner.requests == []


def _public_port(info, port, check):
    """Let one port of this machine count as public."""
    family, kind, protocol, _, place = info
    return socket.socket(family, kind, protocol) if str(place[1]) == port else check(info)


class LoopbackPair:
    """A URL of the first server that redirects to a second one."""

    def __init__(self, first):
        from tests.loopback import LoopbackServer

        self._first, self._second = first, LoopbackServer()

    def __enter__(self):
        self._second.__enter__()
        return self._first.add("/redirect", redirect(f"{self._second.url}/secret")), self._second

    def __exit__(self, *error):
        self._second.__exit__(*error)


def test_only_credentials_in_the_url_are_sent_and_only_to_its_server(fetcher_of, server, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\nmachine localhost login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.add("/a", redirect(f"{server.url.replace('127.0.0.1', 'localhost')}/b"))
    server.add("/b", Answer(b"x"))
    for url in (f"{server.url}/a", f"{server.url.replace('//', '//user:word@')}/a"):
        assert fetcher_of().submit(url, bytes).result(WAIT) == b"x"
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == [None, None, "Basic dXNlcjp3b3Jk", None]  # user:word


def test_cookies_of_one_url_are_not_sent_with_others(fetcher_of, server):
    fetcher = fetcher_of()
    first = server.add("/a", Answer(b"x", headers={"Set-Cookie": "visitor=1"}))
    for url in (first, server.add("/b", Answer(b"x"))):
        fetcher.submit(url.replace("127.0.0.1", "localhost"), bytes).result(WAIT)
    assert [request.headers.get("Cookie") for request in server.requests] == [None, None]


def test_few_requests_are_made_at_a_time(fetcher_of, server):
    fetcher = fetcher_of()
    urls = [server.add(f"/{number}", Answer(b"x", after_requests=min(number, PARALLEL))) for number in range(60)]
    assert [future.result(WAIT) for future in [fetcher.submit(url, bytes) for url in urls]] == [b"x"] * 60
    assert server.max_concurrent <= PARALLEL


def test_few_bodies_wait_for_their_decoding(fetcher_of, server):
    fetcher, decodes = fetcher_of(), threading.Event()
    urls = [server.add(f"/{number}", Answer(b"x", after_requests=min(number, PARALLEL))) for number in range(60)]
    futures = [fetcher.submit(url, lambda _: decodes.wait(WAIT)) for url in urls]
    while len(server.requests) < PARALLEL:
        time.sleep(0.01)
    time.sleep(0.3)  # for requests that it should not make
    assert len(server.requests) == PARALLEL
    decodes.set()
    assert all(future.result(WAIT) for future in futures)


def test_closing_cancels_what_is_not_finished(fetcher_of, server):
    fetcher = fetcher_of(seconds=600)
    future = fetcher.submit(server.add("/a", Answer(b"12345678", transfer="stall")), bytes)
    fetcher.close()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(WAIT)
    assert not fetcher._thread.is_alive()


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("10.1.2.3", False),
        ("169.254.169.254", False),  # the metadata of a machine in a cloud
        ("168.63.129.16", False),  # the same at Azure, in a public range
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:10.1.2.3", False),
        ("::ffff:93.184.215.14", True),
        ("::10.1.2.3", False),
        ("::ffff:0:10.1.2.3", False),
        ("::ffff:0:93.184.215.14", True),
        ("2002:0a01:0203::1", False),  # 6to4 of 10.1.2.3
        ("64:ff9b::a9fe:a9fe", False),  # NAT64 of 169.254.169.254
        ("64:ff9b:1::5db8:d70e", False),
        ("2001:0:5db8:d70e::f5fe:fdfc", False),  # Teredo of 10.1.2.3
    ],
)
def test_public_addresses(address, is_public):
    assert fetch.is_public(ipaddress.ip_address(address)) == is_public


def test_a_private_address_is_an_error_of_its_own(fetcher_of, server):
    future = fetcher_of(allow_private=False).submit(server.url, bytes)
    with pytest.raises(PrivateAddress):
        future.result(WAIT)
