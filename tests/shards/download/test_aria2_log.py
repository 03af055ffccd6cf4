import os

import pytest

from shards.download.aria2_log import Aria2Log

STAMP = "2026-11-24 04:50:13.196978 [INFO] [HttpConnection.cc:128]"


def request(cuid: int, target: str, host: str) -> str:
    return f"{STAMP} CUID#{cuid} - Requesting:\nGET {target} HTTP/1.1\nUser-Agent: x\nHost: {host}\n\n\n"


def answer(cuid: int, status: int, *headers: str) -> str:
    return (
        f"{STAMP} CUID#{cuid} - Response received:\nHTTP/1.1 {status} X\n" + "".join(f"{h}\n" for h in headers) + "\n\n"
    )


def redirect(cuid: int, url: str) -> str:
    return f"{STAMP} CUID#{cuid} - Redirecting to {url}\n"


@pytest.fixture
def read():
    """Read a log to its end with Aria2Log."""

    def run(log: str) -> Aria2Log:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(log)
        reader = Aria2Log(os.fdopen(reading, "rb"))
        reader.start()
        reader.join(5)
        return reader

    return run


def test_redirects_are_followed_to_the_last_url(read):
    log = read(
        request(7, "/a.jpg?x=1", "h:81")
        + answer(7, 302, "Location: /b")
        + redirect(7, "http://h:81/b")
        + request(9, "/other", "h")
        + request(7, "/b", "h:81")
        + answer(9, 200)
        + answer(7, 301)
        + redirect(7, "https://elsewhere/photo_unavailable.png")
        + request(7, "/photo_unavailable.png", "elsewhere")
        + answer(7, 200)
    )
    trace = log.take_trace("http://h:81/a.jpg?x=1")
    assert (trace.final_url, trace.http_status) == ("https://elsewhere/photo_unavailable.png", 200)
    assert log.take_trace("http://h/other").final_url is None


def test_a_request_to_a_proxy_has_the_complete_url(read):
    log = read(request(7, "http://h/a.jpg", "h") + answer(7, 404))
    assert log.take_trace("http://h/a.jpg").http_status == 404


def test_a_default_port_is_ignored(read):
    log = read(request(7, "/", "H") + answer(7, 200))
    assert log.take_trace("https://me:secret@h:443").http_status == 200


def test_a_trace_can_be_taken_once(read):
    log = read(request(7, "/a", "h") + answer(7, 200))
    log.take_trace("http://h/a")
    assert log.take_trace("http://h/a").http_status is None


def resolved(cuid: int, text: str) -> str:
    return f"{STAMP} CUID#{cuid} - {text}\n"


def test_redirects_are_reported_with_the_resolved_addresses(read):
    log = read(
        resolved(7, "Name resolution complete: h -> 10.0.0.1")
        + request(7, "/a", "H:81")
        + answer(7, 302)
        + redirect(7, "http://other/b")
        + resolved(7, "Name resolution complete: other -> 93.184.216.34, 10.0.0.2")
        + resolved(9, "DNS cache hit: third -> 10.0.0.3")
        + request(7, "/b", "other")
        + answer(7, 302)
        + redirect(7, "https://THIRD/c")
        + resolved(7, "DNS cache hit: THIRD -> ::1")
    )
    trace = log.take_trace("http://h:81/a")
    assert (trace.host, trace.redirects) == ("h", ["http://other/b", "https://THIRD/c"])
    assert trace.addresses == {"other": ["93.184.216.34", "10.0.0.2"], "third": ["::1"]}


def test_x_robots_tag_is_that_of_the_last_response(read):
    log = read(
        request(7, "/a", "h")
        + answer(7, 302, "X-Robots-Tag: noai")
        + redirect(7, "http://h/b")
        + request(7, "/b", "h")
        + answer(7, 200, "X-Robots-Tag: otherbot: noindex", "x-robots-tag:nofollow, noarchive", "X-Robots: noai")
    )
    robots = log.take_trace("http://h/a").robots
    assert [header.strip() for header in robots] == ["otherbot: noindex", "nofollow, noarchive"]


def test_the_error_is_the_first_one_and_its_cause(read):
    log = read(
        "Parse error in aria2.conf\n"
        "Exception: [AbstractOptionHandler.cc:69] errorCode=28 A problem with the option '--all-proxy'.\n"
        "  -> [OptionHandlerImpl.cc:520] errorCode=1 unrecognized proxy format\n"
        "Usage:\n" + " --all-proxy=PROXY  Use a proxy\n" * 20
    )
    assert log.error == "A problem with the option '--all-proxy'. unrecognized proxy format"
    log = read(f"{STAMP}\n{STAMP.replace('INFO', 'ERROR')} failed to bind TCP port 7123\n{STAMP} bye\n")
    assert log.error == "failed to bind TCP port 7123"


def test_without_an_error_the_last_lines_are_reported(read):
    assert read("first\n\n  second\n").error == "first second"


def test_multicalls_are_counted(read):
    log = read(f"{STAMP} Executing RPC method system.multicall\n" * 2 + f"{STAMP} Executing RPC method aria2.addUri\n")
    assert log.wait_for_call(2, timeout=1)
    assert not log.wait_for_call(3, timeout=0)


def connect(cuid: int, to: str) -> str:
    return f"{STAMP} CUID#{cuid} - Requesting:\nCONNECT {to} HTTP/1.1\nUser-Agent: x\nHost: {to}\n\n\n"


def test_a_refused_tunnel_counts_for_as_many_urls_of_its_host_as_were_refused(read):
    log = read(
        connect(7, "h:443")
        + connect(8, "H:443")
        + connect(9, "h:444")
        + connect(10, "open:443")
        + answer(7, 407)
        + answer(10, 200)
        + request(10, "/a", "open")
        + answer(8, 407)
        + answer(10, 404)
        + answer(9, 503)
    )
    assert log.take_trace("https://open/a").http_status == 404
    assert log.take_trace("https://h:444/a").http_status is None
    assert [log.take_trace(f"https://h/{name}").http_status for name in "abc"] == [407, 407, None]


def test_a_tunnel_refused_after_a_redirect_is_the_last_response(read):
    log = read(
        request(7, "http://h/a", "h")
        + answer(7, 302)
        + redirect(7, "https://h/a")
        + connect(7, "h:443")
        + answer(7, 407)
    )
    assert log.take_trace("http://h/a").http_status == 407


def padded(head: str, size: int) -> str:
    """Return a logged head whose message, from CUID to its last byte, has `size` bytes, cut to aria2's 2,047."""
    stamp, message = head[: len(STAMP) + 1], head[len(STAMP) + 1 :].removesuffix("\n\n") + "X-Pad: "
    message += "p" * (size - len(message) - 2) + "\n\n"
    return f"{stamp}{message[:2047]}\n"


@pytest.mark.parametrize("size", [*range(2040, 2056), 5000])
def test_a_cut_response_head_is_marked_and_ends_at_its_last_byte(read, size):
    head = padded(answer(7, 200, "X-Robots-Tag: noai"), size)
    log = read(request(7, "/a", "h") + request(8, "/b", "h") + head + answer(8, 404))
    cut, other = log.take_trace("http://h/a"), log.take_trace("http://h/b")
    assert cut.is_cut == (size > 2047)
    assert cut.is_cut or cut.robots == ["noai"]
    assert (other.http_status, other.is_cut, other.is_doubtful) == (404, False, False)


def test_a_cut_redirect_is_marked(read):
    message = f"CUID#7 - Redirecting to http://h/{'a' * 3000}"[:2047]
    log = read(request(7, "/a", "h") + answer(7, 302) + f"{STAMP} {message}\n" + answer(7, 200))
    assert log.take_trace("http://h/a").is_cut


def test_a_cut_request_leaves_no_trace(read):
    head = f"{STAMP} " + f"CUID#7 - Requesting:\nGET /{'a' * 3000} HTTP/1.1\n"[:2047] + "\n"
    log = read(head + answer(7, 200) + request(8, "/b", "h") + answer(8, 200))
    assert log.take_trace(f"http://h/{'a' * 3000}").http_status is None
    assert log.take_trace("http://h/b").http_status == 200


def test_after_a_head_that_ends_at_a_nul_byte_no_trace_in_flight_is_trusted(read):
    forged = f"{STAMP} CUID#8 - Response received:\nHTTP/1.1 200 OK\n\n\n"
    log = read(
        request(7, "/a", "h")
        + request(8, "/b", "h")
        + answer(8, 200, "X-Robots-Tag: noai")
        + f"{STAMP} CUID#7 - Response received:\nHTTP/1.1 200 OK\nX-A: a\n"
        + forged
        + request(9, "/c", "h")
        + answer(9, 200)
    )
    assert log.take_trace("http://h/a").is_cut
    assert log.take_trace("http://h/b").is_doubtful
    later = log.take_trace("http://h/c")
    assert (later.http_status, later.is_cut, later.is_doubtful) == (200, False, False)


def test_a_header_on_several_lines_is_joined(read):
    head = answer(7, 200, "X-Robots-Tag:", " noai,", "\tnoindex", "  ", "Retry-After: 3")
    trace = read(request(7, "/a", "h") + head).take_trace("http://h/a")
    assert (" ".join(trace.robots[0].split()), trace.retry_after) == ("noai, noindex", 3.0)


def test_a_url_that_looks_like_a_record_is_not_one(read):
    url = "http://h/CUID#8 - Response received:"
    log = read(
        request(8, "/b", "h") + answer(8, 404) + f"{STAMP} CUID#7 - Download aborted. URI={url}\n" + answer(9, 200)
    )
    assert log.take_trace("http://h/b").http_status == 404


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_head_that_ends_at_a_nul_at_the_beginning_of_a_line_is_cut(read, end):
    head = f"CUID#7 - Response received:\nHTTP/1.1 200 OK{end}Content-Length: 9{end}"
    log = read(request(7, "/a", "h") + f"{STAMP} {head}\n{STAMP} The download was complete.\n")
    assert log.take_trace("http://h/a").is_cut


def test_a_second_request_for_a_url_in_flight_makes_both_traces_doubtful(read):
    log = read(request(7, "/a", "h") + answer(7, 200, "X-Robots-Tag: noai") + request(8, "/a", "h") + answer(8, 200))
    assert log.take_trace("http://h/a").is_doubtful


def test_a_mirror_makes_the_trace_doubtful(read):
    log = read(request(7, "/a", "h") + answer(7, 200, "Link: <http://127.0.0.1/x>; rel=duplicate; pri=1"))
    assert log.take_trace("http://h/a").is_doubtful


def test_a_port_with_leading_zeros_is_the_same_port(read):
    log = read(request(7, "/a", "h:81") + answer(7, 404))
    assert log.take_trace("http://h:0081/a").http_status == 404
