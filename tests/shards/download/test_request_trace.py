import datetime as dt
import email.utils

import pytest

from shards.download.request_trace import RequestTrace


def retry_after(header: str) -> float | None:
    trace = RequestTrace()
    trace.record_response(429, [("retry-after", header)])
    return trace.retry_after


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), (" 0 ", 0.0), ("soon", None), ("-3", None), ("", None)])
def test_retry_after_in_seconds(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_as_a_date():
    date = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1000), usegmt=True)
    assert 900 < retry_after(date) <= 1000


def test_a_response_replaces_the_headers_of_the_earlier_one():
    trace = RequestTrace()
    trace.record_response(302, [("Retry-After", "7"), ("X-Robots-Tag", "noai"), ("Content-Encoding", "X-Gzip ")])
    assert (trace.http_status, trace.robots, trace.content_encoding) == (302, ["noai"], "X-Gzip")
    trace.record_response(200, [])
    assert (trace.http_status, trace.retry_after, trace.robots, trace.content_encoding) == (200, None, [], "")
