import pytest

from shards.config.schema import AssembleConfig
from shards.download.classify import classify, find_http_status, is_local_failure, is_unverified
from shards.download.request_trace import RequestTrace
from shards.format.outcomes import Status

CONFIG = AssembleConfig(list="a", out="b")


def result(code: int, message: str = "", status: str = "error", total: int = 0) -> dict[str, str]:
    return {"status": status, "errorCode": str(code), "errorMessage": message, "totalLength": str(total)}


COMPLETE = result(0, status="complete")


# Results of aria2 1.37; tests/shards/download/test_downloader.py and tests/shards/test_web.py use the real aria2c.
@pytest.mark.parametrize(
    ("stopped", "http_status", "status"),
    [
        (COMPLETE, 200, Status.KEPT),
        (result(3, "Resource not found"), 404, Status.NOT_FOUND),
        (result(22, "The response status is not successful. status=410"), 410, Status.GONE),
        (result(22, "The response status is not successful. status=451"), 451, Status.FORBIDDEN),
        (result(22, "Got 302 status, but no location header provided."), 302, Status.HTTP_ERROR),
        (result(29, "The response status is not successful. status=503"), 503, Status.SERVER_ERROR),
        (result(1, "Failed to establish connection, cause: Connection refused"), None, Status.REFUSED),
        (result(1, "Got EOF from the server.", total=9), 200, Status.INCOMPLETE),
        (result(1, "Redirect to file:///etc/passwd failed. It may not be a valid URI."), 302, Status.REDIRECT_REFUSED),
        (result(19, "CUID#7 - Could not resolve name"), None, Status.DNS),
        (result(2, "Timeout."), 200, Status.TIMEOUT),
        (result(17), 200, Status.TOO_LARGE),
        (result(23), 302, Status.TOO_MANY_REDIRECTS),
        (result(26, "something new"), 200, Status.DOWNLOAD_ERROR),
        (result(22, "The response status is not successful. status=999"), 999, Status.HTTP_ERROR),
        (result(1, "SSL/TLS handshake failure: self-signed certificate"), None, Status.TLS_ERROR),
        (result(1, "SSL/TLS handshake failure: SSL I/O error"), None, Status.REFUSED),
        (result(1, "libz::inflate() failed. cause:incorrect header check"), 200, Status.BAD_ENCODING),
        (result(1, "Content-Length must be positive integer"), None, Status.BAD_RESPONSE),
        (result(1, "Transfer encoding foo is not supported."), None, Status.BAD_RESPONSE),
        (result(1, "Bad chunk size: not hex string"), None, Status.BAD_RESPONSE),
        (result(1, "Bad HTTP header: missing ':'"), None, Status.BAD_RESPONSE),
        (result(1, "Bad status code: bad status-code"), None, Status.BAD_RESPONSE),
        (result(1, "Got EOF from the server."), 200, Status.INCOMPLETE),  # of a chunked body
        (result(1, "Got EOF from the server."), 302, Status.REFUSED),
        (result(1, "No URI available.", total=10**10), 200, Status.TOO_LARGE),
        (result(32, "Checksum error detected. file=/x"), 200, Status.HASH_MISMATCH),
    ],
)
def test_each_result_has_its_status(stopped, http_status, status):
    result = classify(stopped, RequestTrace(http_status=http_status), CONFIG)
    assert (result.status, result.http_status) == (status, http_status)


@pytest.mark.parametrize(
    ("stopped", "trace", "expected"),
    [
        (COMPLETE, RequestTrace(http_status=200), False),
        (COMPLETE, RequestTrace(), True),
        (COMPLETE, RequestTrace(http_status=302), True),  # the log does not show the answer to the redirect's target
        (COMPLETE, RequestTrace(http_status=200, is_cut=True), True),
        (COMPLETE, RequestTrace(http_status=200, is_doubtful=True), True),
        (COMPLETE, RequestTrace(http_status=200, content_encoding="x-gzip"), True),
        (COMPLETE, RequestTrace(http_status=200, content_encoding="GZIP"), True),
        (COMPLETE, RequestTrace(http_status=200, content_encoding="gzip"), False),
        (COMPLETE, RequestTrace(http_status=200, content_encoding="br"), False),
        (result(1), RequestTrace(http_status=302, redirects=["HTTP://h/x"]), True),
        (result(19), RequestTrace(http_status=302, redirects=["http://%C3%A9.org/x"]), True),
        (result(19), RequestTrace(http_status=302, redirects=["http://h/x"]), False),
        (result(22, "Unexpected status 203"), RequestTrace(http_status=203), True),
        (result(22, "Unexpected status 204"), RequestTrace(http_status=204), False),
        (result(22, "status=429"), RequestTrace(), True),  # its Retry-After is unknown
        (result(3), RequestTrace(http_status=404), False),
        (result(19), RequestTrace(), False),
    ],
)
def test_a_result_is_unverified_if_its_response_is_not_known_completely(stopped, trace, expected):
    assert is_unverified(stopped, trace) == expected


def test_a_failure_in_the_relay_is_the_result():
    trace = RequestTrace(http_status=200, failure=(Status.INCOMPLETE, "cut off"))
    found = classify(result(1, "Got EOF from the server. status=502"), trace, CONFIG)
    assert (found.status, found.message, found.http_status) == (Status.INCOMPLETE, "cut off", 200)


def test_a_message_is_one_line():
    assert classify(result(1, "a\n b\r\n"), RequestTrace(), CONFIG).message == "a b"


def test_a_body_over_the_limit_is_named_by_the_limit():
    assert classify(result(17, "File I/O"), RequestTrace(), CONFIG).message == f"over max_bytes {CONFIG.max_bytes}"


def test_a_refused_redirect_takes_precedence_over_any_result():
    trace = RequestTrace(host="h", redirects=["ftp://h/a"], http_status=302)
    for stopped in (COMPLETE, result(2, "Timeout.")):
        assert classify(stopped, trace, CONFIG).status is Status.REDIRECT_REFUSED


def test_a_disallowed_directive_applies_to_completed_downloads():
    trace = RequestTrace(http_status=200, robots=["noai"])
    banned = classify(COMPLETE, trace, CONFIG)
    assert (banned.status, banned.message) == (Status.NOAI, "X-Robots-Tag: noai")
    assert classify(result(2, "Timeout."), trace, CONFIG).status is Status.TIMEOUT


def test_the_http_status_is_read_from_aria2s_message_or_its_log():
    assert find_http_status(result(22, "The response status is not successful. status=418"), RequestTrace()) == 418
    assert find_http_status(result(3, "Resource not found"), RequestTrace(http_status=404)) == 404
    assert find_http_status(result(1), RequestTrace()) is None


def test_failures_of_this_machine_are_recognized():
    assert is_local_failure(result(9, "No space left"))
    assert not is_local_failure(result(17))
    assert not is_local_failure(COMPLETE)
