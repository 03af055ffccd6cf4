import pytest

from shards.config.schema import AssembleConfig
from shards.download.aria2_log import RequestTrace
from shards.download.classify import classify, http_status_of, is_local_failure
from shards.format.outcomes import Status

CONFIG = AssembleConfig(list="a", out="b")


def result(code: int, message: str = "", status: str = "error", total: int = 0) -> dict[str, str]:
    return {"status": status, "errorCode": str(code), "errorMessage": message, "totalLength": str(total)}


COMPLETE = result(0, status="complete")


# What aria2 1.37 says; tests/shards/download/test_downloader.py and test_web.py have the answers that it says it to.
@pytest.mark.parametrize(
    ("ended", "http_status", "status"),
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
    ],
)
def test_each_end_has_its_name(ended, http_status, status):
    assert classify(ended, RequestTrace(http_status=http_status), CONFIG)[0] is status


def test_a_message_is_one_line():
    assert classify(result(1, "a\n b\r\n"), RequestTrace(), CONFIG)[1] == "a b"


def test_a_way_that_may_not_be_outweighs_whatever_came():
    trace = RequestTrace(host="h", redirects=["ftp://h/a"], http_status=302)
    for ended in (COMPLETE, result(2, "Timeout.")):
        assert classify(ended, trace, CONFIG)[0] is Status.REDIRECT_REFUSED


def test_a_ban_is_heeded_where_a_body_came():
    trace = RequestTrace(http_status=200, robots=["noai"])
    assert classify(COMPLETE, trace, CONFIG) == (Status.NOAI, "X-Robots-Tag: noai")
    assert classify(result(2, "Timeout."), trace, CONFIG)[0] is Status.TIMEOUT


def test_the_answers_status_is_in_aria2s_words_or_in_its_log():
    assert http_status_of(result(22, "The response status is not successful. status=418"), RequestTrace()) == 418
    assert http_status_of(result(3, "Resource not found"), RequestTrace(http_status=404)) == 404
    assert http_status_of(result(1), RequestTrace()) is None


def test_what_this_machine_lacks_is_no_row_s_fault():
    assert is_local_failure(result(9, "No space left"))
    assert not is_local_failure(result(17))
    assert not is_local_failure(COMPLETE)
