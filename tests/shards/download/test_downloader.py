import signal
import time

import pytest

from shards.config.schema import AssembleConfig, Rewrite
from shards.download.downloader import Downloader, DownloadResult
from shards.download.host_queue import Request
from shards.errors import ShardsError
from shards.format.outcomes import Status
from tests.forward_proxy import StrictProxy
from tests.loopback import BODY, Answer, LoopbackServer, redirect
from tests.tunnels import HOST, https_server, tunnel_proxy, write_certificate


class ManualClock:
    """A clock that shows `now` until a test changes it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def downloader(tmp_path, clock):
    """A downloader with a manual clock, which requests one URL of a host at a time."""
    config = AssembleConfig(list="x", out=tmp_path, timeout=60, deadline=10**6, attempts=3, per_host=1)
    with Downloader(config, tmp_path, clock) as running:
        yield running


def poll_until(downloader: Downloader, is_done) -> list[DownloadResult]:
    results: list[DownloadResult] = []
    deadline = time.monotonic() + 60
    while not is_done(results):
        assert time.monotonic() < deadline
        results += downloader.poll(0.02)
    return results


def test_a_body_is_stored_unchanged(server, download):
    (one,) = download(server.add("/a.jpg", Answer(BODY)))
    assert one.outcome.status is Status.KEPT
    assert one.body.read_bytes() == BODY
    assert (one.outcome.http_status, one.outcome.attempts) == (200, 1)
    assert one.outcome.final_url == server.url + "/a.jpg"


def test_each_failure_has_its_status(server, download):
    answers = {
        Status.NOT_FOUND: Answer(status=404),
        Status.GONE: Answer(status=410),
        Status.FORBIDDEN: Answer(status=403),
        Status.RATE_LIMITED: Answer(status=429),
        Status.SERVER_ERROR: Answer(status=500),
        Status.HTTP_ERROR: Answer(status=418),
        Status.INCOMPLETE: Answer(BODY, transfer="truncated"),
        Status.TOO_MANY_REDIRECTS: redirect("/too_many_redirects"),
    }
    urls = [server.add(f"/{status}", answer) for status, answer in answers.items()]
    results = download(*urls)
    assert [one.outcome.status for one in results] == list(answers)
    assert [one.outcome.http_status for one in results][:6] == [404, 410, 403, 429, 500, 418]
    assert all(one.body is None for one in results)
    assert all("\n" not in one.outcome.message for one in results)


def test_a_503_and_a_reset_within_the_body_have_their_status(server, download):
    urls = [server.add("/503", Answer(status=503)), server.add("/reset", Answer(BODY, transfer="reset"))]
    assert [one.outcome.status for one in download(*urls)] == [Status.SERVER_ERROR, Status.INCOMPLETE]


def test_a_refused_connection_and_an_unknown_host_have_their_status(download):
    results = download("http://127.0.0.1:1/a.jpg", "http://no-such-host.invalid/a.jpg")
    assert results[0].outcome.status is Status.REFUSED
    assert results[1].outcome.status in {Status.DNS, Status.REFUSED}  # depends on the machine's resolver


def test_another_attempt_requests_the_complete_body(server, download):
    answers = [Answer(status=500), Answer(b"x" * 9000, transfer="truncated"), Answer(BODY)]
    (one,) = download(server.add("/a.jpg", *answers), attempts=4)
    assert one.outcome.status is Status.KEPT
    assert one.outcome.attempts == 3
    assert one.body.read_bytes() == BODY
    assert not [request for request in server.requests if "Range" in request.headers]


def test_a_transient_failure_is_requested_as_often_as_configured(server, download):
    (one,) = download(server.add("/a.jpg", Answer(status=503)), attempts=2)
    assert (one.outcome.status, one.outcome.attempts) == (Status.SERVER_ERROR, 2)
    assert len(server.request_times("/a.jpg")) == 2


def test_a_permanent_failure_is_requested_once(server, download):
    download(server.add("/a.jpg", Answer(status=404)), server.add("/b.jpg", Answer(status=403)), attempts=4)
    assert len(server.requests) == 2


def test_retry_after_is_waited_for(server, downloader, clock, tmp_path):
    url = server.add("/a.jpg", Answer(status=429, headers={"Retry-After": "3"}), Answer(BODY))
    downloader.add([Request(0, url, tmp_path / "bodies")])
    poll_until(downloader, lambda _: not downloader._active and server.requests)
    clock.now += 2.9
    for _ in range(10):
        assert downloader.poll(0.02) == []
    assert len(server.requests) == 1
    clock.now += 1  # the host's pause has up to a quarter of jitter
    (one,) = poll_until(downloader, len)
    assert one.outcome.status is Status.KEPT


def test_without_bytes_for_the_timeout_a_download_fails(server, download):
    (one,) = download(server.add("/a.jpg", Answer(BODY, transfer="stall")), timeout=1, clock=time.monotonic)
    assert (one.outcome.status, one.outcome.http_status) == (Status.TIMEOUT, 200)


def test_the_final_url_is_that_of_the_last_redirect(server, download):
    server.add("/photo_unavailable.png", Answer(BODY))
    (one,) = download(server.add("/a.jpg", redirect("/b.jpg")), attempts=1)
    assert one.outcome.status is Status.NOT_FOUND
    (two,) = download(server.add("/c.jpg", redirect("/photo_unavailable.png")))
    assert two.outcome.final_url == server.url + "/photo_unavailable.png"
    assert two.body.read_bytes() == BODY


def test_special_characters_in_a_url_are_encoded(server, download):
    server.add("/with%20space%20%22%C3%A9%22.jpg?q=%3C1%3E", redirect("/end.jpg"))
    server.add("/end.jpg", Answer(BODY))
    (one,) = download(server.url + '/with space "é".jpg?q=<1>')
    assert one.outcome.status is Status.KEPT
    assert one.outcome.final_url == server.url + "/end.jpg"


@pytest.mark.parametrize("url", ["http://Bücher.example.com/ü.jpg", "HTTP://bücher.example.com/ü.jpg"])
def test_an_international_host_name_and_an_upper_case_scheme_are_normalized(server, download, url):
    host = "xn--bcher-kva.example.com"
    server.add(f"http://{host}/%C3%BC.jpg", redirect(f"http://{host}/b.jpg"))
    server.add(f"http://{host}/b.jpg", Answer(BODY))
    (one,) = download(url, proxy=server.url)
    assert one.outcome.status is Status.KEPT, one.outcome.message
    assert one.outcome.final_url == f"http://{host}/b.jpg"


def test_a_url_of_several_rows_is_downloaded_for_each(server, download):
    url = server.add("/a.jpg", Answer(BODY))
    results = download(url, url, url)
    assert len({one.body for one in results}) == 3
    assert {one.body.read_bytes() for one in results} == {BODY}


@pytest.mark.parametrize("transfer", ["complete", "no_length"])
def test_a_body_over_max_bytes_is_refused(server, download, transfer):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as a library might
    (one,) = download(server.add("/a.jpg", Answer(BODY * 20, transfer=transfer)), max_bytes=len(BODY) * 2)
    assert one.outcome.status is Status.TOO_LARGE
    (two,) = download(server.add("/b.jpg", Answer(BODY, transfer=transfer)), max_bytes=len(BODY))
    assert two.body.read_bytes() == BODY


def test_downloads_over_the_deadline_or_below_the_minimum_speed_are_stopped(server, download):
    (one,) = download(server.add("/a.jpg", Answer(BODY, transfer="stall")), deadline=1)
    assert one.outcome.status is Status.TIMEOUT
    (two,) = download(server.add("/b.jpg", Answer(BODY, transfer="slow")), timeout=5)
    assert two.outcome.status is Status.TOO_SLOW


def test_a_torrent_is_not_followed(server, download, tmp_path):
    torrent = b"d4:infod6:lengthi5e4:name8:evil.txt12:piece lengthi16384e6:pieces20:" + b"x" * 20 + b"ee"
    (one,) = download(server.add("/a.jpg", Answer(torrent, headers={"Content-Type": "application/x-bittorrent"})))
    assert one.body.read_bytes() == torrent
    assert [path.name for path in tmp_path.iterdir()] == ["bodies"]


def test_requests_use_the_proxy_and_name_the_contact(server, download):
    url = server.add("http://pictures.example.com/a.jpg", Answer(BODY))
    (one,) = download(url, proxy=server.url, contact="https://example.com/me")
    assert one.body.read_bytes() == BODY
    agent = server.requests[0].headers["User-Agent"]
    assert agent.startswith("stylefinetune/")
    assert agent.endswith("(https://example.com/me)")


def test_connections_to_a_host_are_limited(server, download):
    urls = [server.add(f"/{i}.jpg", Answer(BODY, delay=0.05)) for i in range(12)]
    download(*urls, per_host=3)
    assert server.max_concurrent <= 3


def test_requests_to_a_host_follow_its_rate_limit(server, download):
    urls = [server.add(f"/{i}.jpg", Answer(BODY)) for i in range(6)]
    download(*urls, per_host_rate=4.0)
    times = sorted(request.time for request in server.requests)
    assert times[-1] - times[0] >= (5 / 4 - 0.3) / 10  # of a clock ten times as fast; a lower bound on any machine


def test_refusals_in_a_row_pause_that_host_only(server, downloader, clock, tmp_path):
    with LoopbackServer() as other:
        busy = Answer(status=503, headers={"Retry-After": "6"})
        urls = [server.add(f"/a{i}.jpg", busy, Answer(BODY)) for i in range(2)]
        urls += [server.add(f"/a{i}.jpg", Answer(BODY)) for i in range(2, 6)]
        urls += [other.add(f"/b{i}.jpg", Answer(BODY)) for i in range(8)]
        downloader.add(Request(row, url, tmp_path / "bodies") for row, url in enumerate(urls))
        results = poll_until(downloader, lambda results: len(results) == 8)
        assert {one.row for one in results} == set(range(6, 14))
        clock.now += 1.1  # the first refusal may concern its URL alone, so that the pause is short
        poll_until(downloader, lambda _: len(server.requests) == 2)
        clock.now += 0.1
        assert poll_until(downloader, lambda _: downloader.describe_wait() is not None) == []
        clock.now += 5.7
        for _ in range(10):
            assert downloader.poll(0.02) == []
        assert len(server.requests) == 2
        clock.now += 9
        results += poll_until(downloader, lambda results: len(results) == 6)
    assert {one.outcome.status for one in results} == {Status.KEPT}


def test_requests_of_a_host_that_keeps_refusing_are_cancelled(server, download):
    with LoopbackServer() as other:
        urls = [server.add(f"/{i}.jpg", Answer(status=429)) for i in range(30)]
        results = download(*urls, other.add("/b.jpg", Answer(BODY)), per_host=2)
    *refused, last = [one.outcome for one in results]
    assert last.status is Status.KEPT
    assert {outcome.status for outcome in refused} == {Status.RATE_LIMITED, Status.CANCELLED}
    cancelled = [outcome for outcome in refused if outcome.status is Status.CANCELLED]
    assert {outcome.attempts for outcome in cancelled} == {0}
    assert len(server.requests) == 30 - len(cancelled) <= 4
    assert "too many URLs in a row" in cancelled[0].message


def test_a_proxy_password_is_used_and_a_wrong_one_is_reported(download):
    with StrictProxy() as proxy:
        url = proxy.add("http://pictures.example.com/a.jpg", Answer(BODY))
        (one,) = download(url, proxy=proxy.url.replace("//", "//me:right@"))
        assert one.body.read_bytes() == BODY
        (two,) = download(url, proxy=proxy.url.replace("//", "//me:wrong@"), attempts=2)
        assert (two.outcome.status, two.outcome.http_status) == (Status.PROXY_REFUSED, 407)
        (three,) = download(url, proxy=proxy.url)
        assert three.outcome.status is Status.PROXY_REFUSED


def test_a_proxy_that_refuses_everything_is_an_error(download):
    with StrictProxy() as proxy:
        urls = [f"http://h{i}.example.com/a.jpg" for i in range(40)]
        with pytest.raises(ShardsError, match=r"the proxy 127.0.0.1:\d+ refuses the credentials \(407\)") as caught:
            download(*urls, proxy=proxy.url.replace("//", "//me:wrong@"))
    assert "wrong" not in str(caught.value)


def test_https_uses_a_proxy_tunnel_and_a_wrong_password_is_reported(download, tmp_path, monkeypatch):
    certificate = tmp_path / "own.pem"
    write_certificate(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with https_server(certificate) as server, tunnel_proxy(server) as proxy:
        server.add("/a.jpg", Answer(BODY))
        (one,) = download(f"https://{HOST}/a.jpg", proxy=f"http://me:right@{proxy}")
        assert one.body.read_bytes() == BODY
        (two,) = download(f"https://{HOST}:443/a.jpg", proxy=f"http://me:wrong@{proxy}", attempts=2)
        assert (two.outcome.status, two.outcome.http_status) == (Status.PROXY_REFUSED, 407)
        (three,) = download("https://another.example.com/a.jpg", proxy=f"http://me:right@{proxy}")
        assert three.outcome.status is Status.TLS_ERROR
        assert "hostname" in three.outcome.message
        with pytest.raises(ShardsError, match=r"the proxy 127.0.0.1:\d+ refuses the credentials \(407\)"):
            download(*(f"https://h{i}.example.com/a.jpg" for i in range(40)), proxy=f"http://me:wrong@{proxy}")
        assert len(server.requests) == 1


def rewrite_to(server, host: str) -> tuple[Rewrite, ...]:
    return (Rewrite(rf"http://{host}/", f"{server.url}/"),)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "farm9.no-such-host.invalid"])
def test_a_url_is_rewritten_if_its_host_does_not_answer(server, download, host):
    server.add("/1/a.jpg", Answer(status=500), Answer(BODY))
    (one,) = download(f"http://{host}/1/a.jpg", rewrite=rewrite_to(server, host), attempts=2)
    assert one.body.read_bytes() == BODY
    assert (one.outcome.status, one.outcome.attempts) == (Status.KEPT, 3)
    assert one.outcome.final_url == f"{server.url}/1/a.jpg"


def test_the_rewritten_urls_answer_is_the_final_status(server, download):
    (one,) = download("http://127.0.0.1:1/gone.jpg", rewrite=rewrite_to(server, "127.0.0.1:1"), attempts=3)
    assert (one.outcome.status, one.outcome.attempts) == (Status.NOT_FOUND, 2)


def test_a_url_whose_host_answers_is_not_rewritten(server, download):
    with LoopbackServer() as other:
        rules = rewrite_to(other, server.url.removeprefix("http://"))
        (one,) = download(server.add("/a.jpg", Answer(status=404)), rewrite=rules)
        assert (one.outcome.status, other.requests) == (Status.NOT_FOUND, [])


def test_after_several_unanswered_requests_a_host_is_not_requested_again(server, download):
    urls = [server.add(f"http://farm{i % 2}.example.com/{i}.jpg", Answer(b"no such host", 502)) for i in range(60)]
    for i in range(60):
        server.add(f"http://live.example.com/{i}.jpg", Answer(BODY))
    rules = (Rewrite(r"http://farm\d\.example\.com/", "http://live.example.com/"),)
    results = download(*urls, rewrite=rules, proxy=server.url, per_host=2, connections=64)
    assert {one.outcome.status for one in results} == {Status.KEPT}
    farm_requests = [request.path for request in server.requests if "farm" in request.path]
    assert 16 <= len(farm_requests) <= 16 + 2 * 2
    assert [one.outcome.attempts for one in results].count(1) == 60 - len(farm_requests)


def test_without_requests_no_daemon_is_started(download):
    assert download() == []


def test_urls_that_are_refused_twice_are_all_kept(server, download):
    """The host answers all the others: each refused URL waits for itself, and all of them wait at the same time."""
    busy = [Answer(status=503), Answer(status=429, headers={"Retry-After": "1"}), Answer(BODY)]
    urls = [server.add(f"/{i}.jpg", *(busy if i % 33 == 5 else [Answer(BODY)])) for i in range(400)]
    results = download(*urls, attempts=4)
    assert {one.outcome.status for one in results} == {Status.KEPT}
    assert sum(one.outcome.attempts == 3 for one in results) == 12
    assert len(server.requests) == 400 + 2 * 12


def test_a_proxy_that_aria2_does_not_support_is_an_error(download, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    for name in ("all_proxy", "no_proxy", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ShardsError, match=r"ALL_PROXY is socks5://127\.0\.0\.1:1"):
        download("http://h.invalid/a.jpg")
