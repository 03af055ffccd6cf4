import datetime as dt
import email.utils
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
    """Lets a reader read a log to its end."""

    def run(log: str) -> Aria2Log:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(log)
        reader = Aria2Log(os.fdopen(reading, "rb"))
        reader.start()
        reader.join(5)
        return reader

    return run


def test_a_redirect_is_followed_to_its_end(read):
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
    trace = log.take("http://h:81/a.jpg?x=1")
    assert (trace.final_url, trace.http_status) == ("https://elsewhere/photo_unavailable.png", 200)
    assert log.take("http://h/other").final_url is None


def test_a_proxys_request_line_has_the_whole_url(read):
    log = read(request(7, "http://h/a.jpg", "h") + answer(7, 404))
    assert log.take("http://h/a.jpg").http_status == 404


def test_an_https_url_is_found_under_its_usual_port(read):
    log = read(request(7, "/", "H") + answer(7, 200))
    assert log.take("https://me:secret@h:443").http_status == 200


def test_what_is_taken_is_forgotten(read):
    log = read(request(7, "/a", "h") + answer(7, 200))
    log.take("http://h/a")
    assert log.take("http://h/a").http_status is None


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0", 0.0), ("soon", None), ("-3", None)])
def test_retry_after_in_seconds(read, header, seconds):
    log = read(request(7, "/a", "h") + answer(7, 429, f"Retry-After: {header}"))
    assert log.take("http://h/a").retry_after == seconds


def test_retry_after_as_a_date(read):
    date = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1000), usegmt=True)
    log = read(request(7, "/a", "h") + answer(7, 503, f"retry-after: {date}"))
    assert 900 < log.take("http://h/a").retry_after <= 1000


def test_a_later_answer_takes_the_wish_back(read):
    log = read(
        request(7, "/a", "h")
        + answer(7, 302, "Retry-After: 7")
        + redirect(7, "http://h/b")
        + request(7, "/b", "h")
        + answer(7, 200)
    )
    assert log.take("http://h/a").retry_after is None


def resolved(cuid: int, words: str) -> str:
    return f"{STAMP} CUID#{cuid} - {words}\n"


def test_the_way_is_told_with_the_addresses_that_names_stood_for(read):
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
    trace = log.take("http://h:81/a")
    assert (trace.host, trace.redirects) == ("h", ["http://other/b", "https://THIRD/c"])
    assert trace.addresses == {"other": ["93.184.216.34", "10.0.0.2"], "third": ["::1"]}


def test_what_robots_are_told_is_the_last_answers(read):
    log = read(
        request(7, "/a", "h")
        + answer(7, 302, "X-Robots-Tag: noai")
        + redirect(7, "http://h/b")
        + request(7, "/b", "h")
        + answer(7, 200, "X-Robots-Tag: otherbot: noindex", "x-robots-tag:nofollow, noarchive", "X-Robots: noai")
    )
    robots = log.take("http://h/a").robots
    assert [header.strip() for header in robots] == ["otherbot: noindex", "nofollow, noarchive"]


def test_the_complaint_is_the_first_error_and_its_cause(read):
    log = read(
        "Parse error in aria2.conf\n"
        "Exception: [AbstractOptionHandler.cc:69] errorCode=28 A problem with the option '--all-proxy'.\n"
        "  -> [OptionHandlerImpl.cc:520] errorCode=1 unrecognized proxy format\n"
        "Usage:\n" + " --all-proxy=PROXY  Use a proxy\n" * 20
    )
    assert log.complaint == "A problem with the option '--all-proxy'. unrecognized proxy format"
    log = read(f"{STAMP}\n{STAMP.replace('INFO', 'ERROR')} failed to bind TCP port 7123\n{STAMP} bye\n")
    assert log.complaint == "failed to bind TCP port 7123"


def test_where_no_error_is_named_the_complaint_is_the_end(read):
    assert read("first\n\n  second\n").complaint == "first second"


def test_calls_are_counted_as_they_are_read(read):
    log = read(f"{STAMP} Executing RPC method system.multicall\n" * 2 + f"{STAMP} Executing RPC method aria2.addUri\n")
    assert log.wait_for_call(2, timeout=1)
    assert not log.wait_for_call(3, timeout=0)


def connect(cuid: int, to: str) -> str:
    return f"{STAMP} CUID#{cuid} - Requesting:\nCONNECT {to} HTTP/1.1\nUser-Agent: x\nHost: {to}\n\n\n"


def test_a_refused_tunnel_is_told_of_as_many_urls_as_were_refused_and_of_no_other_host(read):
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
    assert log.take("https://open/a").http_status == 404
    assert log.take("https://h:444/a").http_status is None
    assert [log.take(f"https://h/{name}").http_status for name in "abc"] == [407, 407, None]


def test_a_tunnel_that_is_refused_after_a_redirect_is_the_last_answer(read):
    log = read(
        request(7, "http://h/a", "h")
        + answer(7, 302)
        + redirect(7, "https://h/a")
        + connect(7, "h:443")
        + answer(7, 407)
    )
    assert log.take("http://h/a").http_status == 407
