import time

import pytest

from shards.config.schema import AssembleConfig, Rewrite
from shards.download.downloader import Downloader, DownloadResult
from shards.download.host_queue import Request
from shards.errors import ShardsError
from shards.format.outcomes import Status
from tests.forward_proxy import StrictProxy
from tests.loopback import Answer, LoopbackServer, redirect
from tests.tunnels import HOST, https_server, tunnel_proxy, write_certificate

BODY = b"\xff\xd8\xff" + bytes(range(256)) * 400


@pytest.fixture
def download(tmp_path):
    """Downloads URLs, row by row, with a daemon of its own."""

    def run(*urls: str, **settings) -> list[DownloadResult]:
        config = AssembleConfig(**{"list": "x", "out": tmp_path, "timeout": 6, "attempts": 1} | settings)
        ended: list[DownloadResult] = []
        deadline = time.monotonic() + 60
        with Downloader(config, tmp_path) as downloader:
            downloader.add(Request(row, url, tmp_path / "bodies") for row, url in enumerate(urls))
            while downloader.is_busy:
                assert time.monotonic() < deadline
                ended += downloader.poll(0.2)
        assert sorted(one.row for one in ended) == list(range(len(urls)))
        return sorted(ended, key=lambda one: one.row)

    return run


def test_a_body_comes_as_it_was_sent(server, download):
    (one,) = download(server.add("/a.jpg", Answer(BODY)))
    assert one.outcome.status is Status.KEPT
    assert one.body.read_bytes() == BODY
    assert (one.outcome.http_status, one.outcome.attempts) == (200, 1)
    assert one.outcome.final_url == server.url + "/a.jpg"


def test_each_refusal_is_named(server, download):
    answers = {
        Status.NOT_FOUND: Answer(status=404),
        Status.GONE: Answer(status=410),
        Status.FORBIDDEN: Answer(status=403),
        Status.RATE_LIMITED: Answer(status=429),
        Status.SERVER_ERROR: Answer(status=500),
        Status.HTTP_ERROR: Answer(status=418),
        Status.INCOMPLETE: Answer(BODY, transfer="truncated"),
        Status.TIMEOUT: Answer(BODY, transfer="stall"),
        Status.TOO_MANY_REDIRECTS: redirect("/too_many_redirects"),
    }
    urls = [server.add(f"/{status}", answer) for status, answer in answers.items()]
    ended = download(*urls)
    assert [one.outcome.status for one in ended] == list(answers)
    assert [one.outcome.http_status for one in ended][:6] == [404, 410, 403, 429, 500, 418]
    assert all(one.body is None for one in ended)
    assert all("\n" not in one.outcome.message for one in ended)


def test_503_and_a_reset_in_mid_body_are_named(server, download):
    urls = [server.add("/503", Answer(status=503)), server.add("/reset", Answer(BODY, transfer="reset"))]
    assert [one.outcome.status for one in download(*urls)] == [Status.SERVER_ERROR, Status.INCOMPLETE]


def test_no_connection_and_no_such_host_are_named(download):
    ended = download("http://127.0.0.1:1/a.jpg", "http://no-such-host.invalid/a.jpg")
    assert ended[0].outcome.status is Status.REFUSED
    assert ended[1].outcome.status in {Status.DNS, Status.REFUSED}  # by how the machine's resolver fails


def test_what_heals_is_asked_again_for_a_whole_new_body(server, download):
    answers = [Answer(status=500), Answer(b"x" * 9000, transfer="truncated"), Answer(BODY)]
    (one,) = download(server.add("/a.jpg", *answers), attempts=4)
    assert one.outcome.status is Status.KEPT
    assert one.outcome.attempts == 3
    assert one.body.read_bytes() == BODY
    assert not [seen for seen in server.requests if "Range" in seen.headers]


def test_what_does_not_heal_is_asked_as_often_as_was_said(server, download):
    (one,) = download(server.add("/a.jpg", Answer(status=503)), attempts=2)
    assert (one.outcome.status, one.outcome.attempts) == (Status.SERVER_ERROR, 2)
    assert len(server.request_times("/a.jpg")) == 2


def test_what_will_not_change_is_asked_once(server, download):
    download(server.add("/a.jpg", Answer(status=404)), server.add("/b.jpg", Answer(status=403)), attempts=4)
    assert len(server.requests) == 2


def test_retry_after_is_waited_for(server, download):
    (one,) = download(server.add("/a.jpg", Answer(status=429, headers={"Retry-After": "3"}), Answer(BODY)), attempts=2)
    first, second = server.request_times("/a.jpg")
    assert one.outcome.status is Status.KEPT
    assert second - first >= 2.9  # a lower bound, whatever the machine's load


def test_a_redirect_is_followed_and_told(server, download):
    server.add("/photo_unavailable.png", Answer(BODY))
    (one,) = download(server.add("/a.jpg", redirect("/b.jpg")), attempts=1)
    assert one.outcome.status is Status.NOT_FOUND
    (two,) = download(server.add("/c.jpg", redirect("/photo_unavailable.png")))
    assert two.outcome.final_url == server.url + "/photo_unavailable.png"
    assert two.body.read_bytes() == BODY


def test_strange_urls_reach_the_server_and_are_followed(server, download):
    server.add("/with%20space%20%22%C3%A9%22.jpg?q=%3C1%3E", redirect("/end.jpg"))
    server.add("/end.jpg", Answer(BODY))
    (one,) = download(server.url + '/with space "é".jpg?q=<1>')
    assert one.outcome.status is Status.KEPT
    assert one.outcome.final_url == server.url + "/end.jpg"


@pytest.mark.parametrize("url", ["http://Bücher.example.com/ü.jpg", "HTTP://bücher.example.com/ü.jpg"])
def test_a_host_in_another_script_is_asked_for_as_dns_has_it_and_a_scheme_in_capitals_is_one(server, download, url):
    host = "xn--bcher-kva.example.com"
    server.add(f"http://{host}/%C3%BC.jpg", redirect(f"http://{host}/b.jpg"))
    server.add(f"http://{host}/b.jpg", Answer(BODY))
    (one,) = download(url, proxy=server.url)
    assert one.outcome.status is Status.KEPT, one.outcome.message
    assert one.outcome.final_url == f"http://{host}/b.jpg"


def test_one_url_in_several_rows_comes_for_each(server, download):
    url = server.add("/a.jpg", Answer(BODY))
    ended = download(url, url, url)
    assert len({one.body for one in ended}) == 3
    assert {one.body.read_bytes() for one in ended} == {BODY}


@pytest.mark.parametrize("transfer", ["complete", "no_length"])
def test_a_body_over_max_bytes_is_refused(server, download, transfer):
    (one,) = download(server.add("/a.jpg", Answer(BODY * 20, transfer=transfer)), max_bytes=len(BODY) * 2)
    assert one.outcome.status is Status.TOO_LARGE
    (two,) = download(server.add("/b.jpg", Answer(BODY, transfer=transfer)), max_bytes=len(BODY))
    assert two.body.read_bytes() == BODY


def test_what_takes_too_long_is_ended(server, download):
    (one,) = download(server.add("/a.jpg", Answer(BODY, transfer="stall")), timeout=30, deadline=1)
    assert one.outcome.status is Status.TIMEOUT
    (two,) = download(server.add("/b.jpg", Answer(BODY, transfer="slow")), timeout=1)
    assert two.outcome.status is Status.TOO_SLOW


def test_a_torrent_is_a_body_like_any_other(server, download, tmp_path):
    torrent = b"d4:infod6:lengthi5e4:name8:evil.txt12:piece lengthi16384e6:pieces20:" + b"x" * 20 + b"ee"
    (one,) = download(server.add("/a.jpg", Answer(torrent, headers={"Content-Type": "application/x-bittorrent"})))
    assert one.body.read_bytes() == torrent
    assert [path.name for path in (tmp_path / "bodies").iterdir()] == [one.body.name]


def test_pictures_go_through_the_proxy_and_name_a_contact(server, download):
    url = server.add("http://pictures.example.com/a.jpg", Answer(BODY))
    (one,) = download(url, proxy=server.url, contact="https://example.com/me")
    assert one.body.read_bytes() == BODY
    agent = server.requests[0].headers["User-Agent"]
    assert agent.startswith("stylefinetune/")
    assert agent.endswith("(https://example.com/me)")


def test_a_host_gets_no_more_connections_than_its_share(server, download):
    urls = [server.add(f"/{i}.jpg", Answer(BODY, delay=0.1)) for i in range(12)]
    download(*urls, per_host=3)
    assert server.max_concurrent <= 3


def test_requests_to_a_host_are_spaced_by_its_rate(server, download):
    urls = [server.add(f"/{i}.jpg", Answer(BODY)) for i in range(6)]
    download(*urls, per_host_rate=4.0)
    times = sorted(seen.time for seen in server.requests)
    assert times[-1] - times[0] >= 5 / 4 - 0.3  # a lower bound, whatever the machine's load


def test_a_host_that_refuses_is_left_in_peace_and_it_alone(server, download):
    with LoopbackServer() as other:
        refused = server.add("/a0.jpg", Answer(status=503, headers={"Retry-After": "6"}), Answer(BODY))
        waiting = [server.add(f"/a{i}.jpg", Answer(BODY)) for i in range(1, 6)]
        others = [other.add(f"/b{i}.jpg", Answer(BODY)) for i in range(8)]
        ended = download(refused, *waiting, *others, attempts=3, per_host=1, connections=8)
        assert {one.outcome.status for one in ended} == {Status.KEPT}
        first, *later = sorted(seen.time for seen in server.requests)
        assert min(later) - first >= 5.9
        assert max(seen.time for seen in other.requests) < min(later)


def test_a_host_that_refuses_for_ever_ends_no_crawl_and_no_other_host(server, download):
    with LoopbackServer() as other:
        urls = [server.add(f"/{i}.jpg", Answer(status=429)) for i in range(30)]
        ended = download(*urls, other.add("/b.jpg", Answer(BODY)), per_host=2)
    *given_up, last = [one.outcome for one in ended]
    assert last.status is Status.KEPT
    assert {outcome.status for outcome in given_up} == {Status.RATE_LIMITED, Status.CANCELLED}
    cancelled = [outcome for outcome in given_up if outcome.status is Status.CANCELLED]
    assert {outcome.attempts for outcome in cancelled} == {0}
    assert len(server.requests) == 30 - len(cancelled) <= 4
    assert "too often" in cancelled[0].message


def test_a_proxy_with_a_password(download):
    with StrictProxy() as proxy:
        url = proxy.add("http://pictures.example.com/a.jpg", Answer(BODY))
        (one,) = download(url, proxy=proxy.url.replace("//", "//me:right@"))
        assert one.body.read_bytes() == BODY
        (two,) = download(url, proxy=proxy.url.replace("//", "//me:wrong@"), attempts=2)
        assert (two.outcome.status, two.outcome.http_status) == (Status.PROXY_REFUSED, 407)
        (three,) = download(url, proxy=proxy.url)
        assert three.outcome.status is Status.PROXY_REFUSED


def test_a_proxy_that_lets_nothing_through_is_one_line(download):
    with StrictProxy() as proxy:
        urls = [f"http://h{i}.example.com/a.jpg" for i in range(40)]
        with pytest.raises(ShardsError, match=r"the proxy 127.0.0.1:\d+ wants other credentials \(407\)") as caught:
            download(*urls, proxy=proxy.url.replace("//", "//me:wrong@"))
    assert "wrong" not in str(caught.value)


def test_https_goes_through_a_proxys_tunnel_and_a_wrong_password_is_named(download, tmp_path, monkeypatch):
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
        assert three.outcome.status is Status.REFUSED
        assert "hostname" in three.outcome.message
        with pytest.raises(ShardsError, match=r"the proxy 127.0.0.1:\d+ wants other credentials \(407\)"):
            download(*(f"https://h{i}.example.com/a.jpg" for i in range(40)), proxy=f"http://me:wrong@{proxy}")
        assert len(server.requests) == 1


def moved_to(server, host: str) -> tuple[Rewrite, ...]:
    return (Rewrite(rf"http://{host}/", f"{server.url}/"),)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "farm9.no-such-host.invalid"])
def test_a_silent_hosts_picture_is_asked_for_where_it_is_now(server, download, host):
    server.add("/1/a.jpg", Answer(status=500), Answer(BODY))
    (one,) = download(f"http://{host}/1/a.jpg", rewrite=moved_to(server, host), attempts=2)
    assert one.body.read_bytes() == BODY
    assert (one.outcome.status, one.outcome.attempts) == (Status.KEPT, 3)
    assert one.outcome.final_url == f"{server.url}/1/a.jpg"


def test_what_the_new_host_says_is_what_the_row_comes_to(server, download):
    (one,) = download("http://127.0.0.1:1/gone.jpg", rewrite=moved_to(server, "127.0.0.1:1"), attempts=3)
    assert (one.outcome.status, one.outcome.attempts) == (Status.NOT_FOUND, 2)


def test_a_host_that_answers_is_not_replaced(server, download):
    with LoopbackServer() as other:
        rules = moved_to(other, server.url.removeprefix("http://"))
        (one,) = download(server.add("/a.jpg", Answer(status=404)), rewrite=rules)
        assert (one.outcome.status, other.requests) == (Status.NOT_FOUND, [])


def test_after_some_silences_a_host_is_asked_no_more(server, download):
    urls = [server.add(f"http://farm{i % 2}.example.com/{i}.jpg", Answer(b"no such host", 502)) for i in range(60)]
    for i in range(60):
        server.add(f"http://live.example.com/{i}.jpg", Answer(BODY))
    rules = (Rewrite(r"http://farm\d\.example\.com/", "http://live.example.com/"),)
    ended = download(*urls, rewrite=rules, proxy=server.url, per_host=2, connections=64)
    assert {one.outcome.status for one in ended} == {Status.KEPT}
    asked = [seen.path for seen in server.requests if "farm" in seen.path]
    assert 16 <= len(asked) <= 16 + 2 * 2
    assert [one.outcome.attempts for one in ended].count(1) == 60 - len(asked)


def test_nothing_to_do_starts_no_daemon(download):
    assert download() == []
