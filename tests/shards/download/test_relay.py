import gzip

import pytest
import requests

from shards.config.schema import AssembleConfig
from shards.download.policy import find_refused_redirect
from shards.download.relay import Relay
from shards.format.outcomes import Status
from tests.loopback import BODY, Answer, LoopbackServer, redirect
from tests.tunnels import HOST, https_server, tunnel_proxy, write_certificate

PAD = {"X-Pad": "p" * 30_000}


@pytest.fixture
def relay(tmp_path):
    """A relay with the given settings, stopped after the test."""
    relays: list[Relay] = []

    def create(**settings) -> Relay:
        relays.append(Relay(AssembleConfig(list="x", out=tmp_path, **settings)))
        return relays[-1]

    yield create
    for one in relays:
        one.stop()


def fetch(relay: Relay, url: str):
    """Request a URL through the relay as aria2 would; return the response, or None if it broke off, and the trace."""
    relay_url = relay.register(url)
    session = requests.Session()
    session.trust_env = False
    try:
        response = session.get(relay_url, timeout=60)
    except requests.RequestException:
        response = None
    return response, relay.take_trace(relay_url)


def test_a_long_response_head_is_recorded_completely(server, relay):
    url = server.add("/a.jpg", Answer(BODY, headers=PAD | {"X-Robots-Tag": "noai", "Retry-After": "7"}))
    response, trace = fetch(relay(), url)
    assert response.content == BODY
    assert (trace.http_status, trace.robots, trace.retry_after, trace.redirects) == (200, ["noai"], 7.0, [])


def test_redirects_are_followed_and_recorded(server, relay):
    server.add("/c.jpg", Answer(BODY))
    url = server.add("/a.jpg", redirect("/b.jpg"))
    server.add("/b.jpg", redirect(f"{server.url}/c.jpg", status=308))
    response, trace = fetch(relay(), url)
    assert response.content == BODY
    assert trace.redirects == [f"{server.url}/b.jpg", f"{server.url}/c.jpg"]


@pytest.mark.parametrize(
    "target", ["http://localhost:{port}/x", "http://2130706433:{port}/x", "ftp://h/x", "http://[/x"]
)
def test_a_refused_redirect_is_never_requested(server, relay, target):
    server.add("/x", Answer(BODY))
    location = target.format(port=server.url.rpartition(":")[2])
    response, trace = fetch(relay(), server.add("/a.jpg", redirect(location)))
    assert not response.ok
    assert find_refused_redirect(trace, allow_private=False)
    assert server.request_times("/x") == []


def test_too_many_redirects_are_a_failure(server, relay):
    _, trace = fetch(relay(), server.add("/loop", redirect("/loop")))
    assert trace.failure[0] is Status.TOO_MANY_REDIRECTS
    assert len(server.request_times("/loop")) == 21


@pytest.mark.parametrize("status", [200, 201, 203, 206, 226])
def test_each_success_is_a_200_for_aria2(server, relay, status):
    response, trace = fetch(relay(), server.add("/a.jpg", Answer(BODY, status)))
    assert (response.status_code, response.content, trace.http_status) == (200, BODY, status)


@pytest.mark.parametrize("status", [302, 404, 429, 503, 600, 999])
def test_each_other_status_is_passed_on(server, relay, status):
    response, trace = fetch(relay(), server.add("/a.jpg", Answer(b"", status)))
    assert (response.status_code, trace.http_status, trace.failure) == (status, status, None)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "X-GZIP"])
def test_x_gzip_is_passed_on_as_gzip(server, relay, encoding):
    answer = Answer(gzip.compress(BODY), headers={"Content-Encoding": encoding})
    response, _ = fetch(relay(), server.add("/a.jpg", answer))
    assert (response.headers["Content-Encoding"], response.content) == ("gzip", BODY)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(BODY, headers={"Content-Length": "abc"}), Status.BAD_RESPONSE),
        (Answer(BODY, headers={"Transfer-Encoding": "foo"}), Status.BAD_RESPONSE),
        (Answer(BODY, headers={"X-A": "a\0b"}), Status.BAD_RESPONSE),
        (Answer(BODY, transfer="truncated"), Status.INCOMPLETE),
        (Answer(BODY, transfer="stall"), Status.TIMEOUT),
    ],
)
def test_a_broken_response_is_a_failure(server, relay, answer, status):
    response, trace = fetch(relay(timeout=1), server.add("/a.jpg", answer))
    assert response is None or not response.ok
    assert trace.failure[0] is status
    assert "\n" not in trace.failure[1]


def test_a_host_without_a_server_or_an_address_is_a_failure(relay):
    with LoopbackServer() as gone:
        url = gone.url
    running = relay()
    assert fetch(running, f"{url}/a.jpg")[1].failure[0] is Status.REFUSED
    assert fetch(running, "http://no-such-host.invalid/a.jpg")[1].failure[0] is Status.DNS


def test_https_goes_through_a_proxy_tunnel_and_checks_the_certificate(relay, tmp_path, monkeypatch):
    certificate = tmp_path / "own.pem"
    write_certificate(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with https_server(certificate) as server, tunnel_proxy(server) as proxy:
        server.add("/a.jpg", Answer(BODY))
        running = relay(proxy=f"http://me:right@{proxy}")
        assert fetch(running, f"https://{HOST}/a.jpg")[0].content == BODY
        assert fetch(running, "https://another.example.com/a.jpg")[1].failure[0] is Status.TLS_ERROR
        refused, trace = fetch(relay(proxy=f"http://me:wrong@{proxy}"), f"https://{HOST}/a.jpg")
        assert (refused.status_code, trace.http_status) == (407, 407)


def test_only_registered_urls_are_answered(server, relay):
    running = relay()
    address = running.register(server.add("/a.jpg", Answer(BODY))).rpartition("/")[0]
    for path in ("/", "/a.jpg", f"/{server.url}/a.jpg"):
        assert requests.get(address + path, timeout=60).status_code == 404
    assert server.requests == []
