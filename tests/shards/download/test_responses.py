"""The statuses of real responses: correct and broken, short and long, one at a time and many at once."""

import contextlib
import gzip

import pytest

from shards.format.outcomes import Status
from tests.loopback import BODY, Answer, LoopbackServer, redirect

LONG_HEAD = {"X-Pad": "p" * 3000}
NOAI = {"X-Robots-Tag": "noai"}
VERDICTS = {
    "ok": (Answer(BODY), Status.KEPT),
    "noai": (Answer(BODY, headers=NOAI), Status.NOAI),
    "long": (Answer(BODY, headers=LONG_HEAD), Status.KEPT),
    "long noai": (Answer(BODY, headers=LONG_HEAD | NOAI), Status.NOAI),
    "nul noai": (Answer(BODY, headers={"X-A": "a\0b"} | NOAI), Status.BAD_RESPONSE),
    "long to loopback": (redirect("http://localhost:1/x?" + "a" * 3000), Status.REDIRECT_REFUSED),
    "long 429": (Answer(status=429, headers=LONG_HEAD | {"Retry-After": "0"}), Status.RATE_LIMITED),
    "dead": (Answer(status=404), Status.NOT_FOUND),
    "203": (Answer(BODY, status=203), Status.KEPT),
    "600": (Answer(BODY, status=600), Status.HTTP_ERROR),
    "999": (Answer(BODY, status=999), Status.HTTP_ERROR),
    "x-gzip": (Answer(gzip.compress(BODY), headers={"Content-Encoding": "x-gzip"}), Status.KEPT),
    "bad gzip": (Answer(BODY, headers={"Content-Encoding": "gzip"}), Status.BAD_ENCODING),
    "bad length": (Answer(BODY, headers={"Content-Length": "abc"}), Status.BAD_RESPONSE),
    "bad transfer": (Answer(BODY, headers={"Transfer-Encoding": "foo"}), Status.BAD_RESPONSE),
    "GZIP": (Answer(gzip.compress(BODY), headers={"Content-Encoding": "GZIP"}), Status.KEPT),
    "nul at a line's beginning": (Answer(BODY, headers={"\0X-A": "b"} | NOAI), Status.BAD_RESPONSE),
    "mirror": (
        Answer(BODY, headers={"Link": "<http://localhost:1/x>; rel=duplicate"}, transfer="truncated"),
        Status.INCOMPLETE,
    ),
    "chunked": (Answer(BODY, transfer="chunked"), Status.KEPT),
    "digest": (Answer(BODY, headers={"Digest": f"SHA-256={'A' * 43}="}), Status.HASH_MISMATCH),
}


@pytest.mark.parametrize("together", [True, False])
def test_responses_get_the_same_results_together_as_alone(download, together):
    names = [name for name in VERDICTS for _ in range(6 if together else 1)]
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(LoopbackServer())
        urls = []
        for i, name in enumerate(names):
            server = shared if together else stack.enter_context(LoopbackServer())
            urls.append(server.add(f"/{i}.jpg", VERDICTS[name][0]))
        # With one attempt, the host would be given up after three refusals in a row.
        results = download(*urls, per_host=64, attempts=3)
    found = [(name, one.outcome.status) for name, one in zip(names, results, strict=True)]
    assert found == [(name, VERDICTS[name][1]) for name in names]
    assert all(one.body is None or one.body.read_bytes() == BODY for one in results)


def test_long_urls_and_urls_that_differ_only_in_what_is_not_requested(server, download):
    long = [server.add(f"/long.jpg?{'q' * size}", Answer(BODY)) for size in range(1400, 4000, 200)]
    server.add("/noai.jpg", Answer(BODY, headers=NOAI))
    address = server.url.removeprefix("http://")
    same = [f"http://{address}/noai.jpg{end}" for end in ("", "#a", "#b")] + [f"HTTP://me:x@{address}/noai.jpg"]
    results = download(*long, *same, per_host=64)
    assert [one.outcome.status for one in results] == [Status.KEPT] * len(long) + [Status.NOAI] * len(same)
    assert {one.outcome.http_status for one in results} == {200}


def test_a_mirror_is_never_downloaded_in_place_of_the_url(server, download):
    """aria2 continues at a mirror that a Link header names: its headers and its address would be unknown."""
    with LoopbackServer() as other:
        mirror = other.add("/m.jpg", Answer(BODY, headers=NOAI)).replace("127.0.0.1", "localhost")
        link = {"Link": f"<{mirror}>; rel=duplicate"}
        urls = [server.add(f"/{i}.jpg", Answer(BODY, headers=link, transfer="truncated")) for i in range(6)]
        results = download(*urls)
    assert {one.outcome.status for one in results} == {Status.INCOMPLETE}


def test_limits_apply_to_the_relay(server, download):
    endless = server.add("/a.jpg", Answer(BODY, headers=LONG_HEAD, transfer="endless"))
    announced = server.add("/b.jpg", Answer(BODY, headers=LONG_HEAD))
    dripping = server.add("/c.jpg", Answer(BODY[:40_000], headers=LONG_HEAD, transfer="slow"))
    results = download(endless, announced, dripping, max_bytes=50_000, deadline=40)
    assert [one.outcome.status for one in results] == [Status.TOO_LARGE, Status.TOO_LARGE, Status.TIMEOUT]
