from pathlib import Path

import pytest

from shards.config.schema import AssembleConfig, Rewrite
from shards.download.aria2_log import RequestTrace
from shards.download.classify import AttemptResult
from shards.download.host_queue import Request
from shards.download.retry_policy import RetryPolicy
from shards.errors import ShardsError
from shards.format.outcomes import Status

NOW = 1000.0
RULE = Rewrite("http://old/", "http://new/")
SERVER_ERROR = AttemptResult(Status.SERVER_ERROR, "500", http_status=500)
NO_ANSWER = AttemptResult(Status.DNS, "no such host")


@pytest.fixture(autouse=True)
def no_proxy_variables(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def policy(**settings) -> RetryPolicy:
    return RetryPolicy(AssembleConfig(list="x", out=Path("x"), **settings))


def attempt(
    policy: RetryPolicy, result: AttemptResult, url: str = "http://old/a", **fields
) -> tuple[Request, float] | None:
    """Make one attempt that has the result, and return what follows it."""
    request = Request(0, url, Path("x"), **({"attempts": 1} | fields))
    policy.queue.put(request)
    policy.queue.take(1, NOW)
    following = policy.next_attempt(request, NOW, result, NOW)
    policy.queue.finish(request)
    return following


@pytest.mark.parametrize(("attempts", "delay"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (20, 60)])
def test_the_delay_before_another_attempt_doubles_up_to_a_minute(attempts, delay):
    request, not_before = attempt(policy(attempts=99), SERVER_ERROR, attempts=attempts)
    assert not_before == NOW + delay
    assert request.last_status is Status.SERVER_ERROR


@pytest.mark.parametrize(("retry_after", "delay"), [(0.0, 1.0), (7.0, 7.0), (1e9, 60.0)])
def test_retry_after_delays_the_next_attempt_by_up_to_a_minute(retry_after, delay):
    limited = AttemptResult(Status.RATE_LIMITED, "429", RequestTrace(retry_after=retry_after), 429)
    assert attempt(policy(), limited)[1] == NOW + delay


def test_the_last_attempt_and_a_permanent_status_are_final():
    assert attempt(policy(attempts=3), SERVER_ERROR, attempts=3) is None
    assert attempt(policy(attempts=3), AttemptResult(Status.NOT_FOUND, "404", http_status=404)) is None
    assert attempt(policy(attempts=3), AttemptResult(Status.KEPT, "", http_status=200)) is None


def test_a_url_whose_host_does_not_answer_is_rewritten_once():
    rules = policy(rewrite=(RULE,), attempts=2)
    request, not_before = attempt(rules, NO_ANSWER)
    assert (request.url, request.rewritten_after, not_before) == ("http://new/a", 1, 0.0)
    request, not_before = attempt(rules, NO_ANSWER, request.url, attempts=2, rewritten_after=1)
    assert (request.url, not_before) == ("http://new/a", NOW + 1)
    assert attempt(rules, NO_ANSWER, request.url, attempts=3, rewritten_after=1) is None
    assert attempt(rules, NO_ANSWER, "http://other/a")[0].url == "http://other/a"


def test_a_host_without_answers_is_unresponsive_until_it_answers():
    rules, request = policy(rewrite=(RULE,)), Request(1, "http://old/b", Path("x"))
    for _ in range(8):
        assert rules.rewrite_unresponsive(request) is None
        attempt(rules, NO_ANSWER)
    assert rules.rewrite_unresponsive(request).url == "http://new/b"
    attempt(rules, SERVER_ERROR)
    assert rules.rewrite_unresponsive(request) is None


@pytest.mark.parametrize(
    ("proxy", "retry_after", "is_rewritten"),
    [(None, None, False), ("http://p:1", None, True), ("http://p:1", 1.0, False)],
)
def test_a_gateway_error_from_a_proxy_means_that_the_host_does_not_answer(proxy, retry_after, is_rewritten):
    bad_gateway = AttemptResult(Status.SERVER_ERROR, "502", RequestTrace(retry_after=retry_after), 502)
    request, _ = attempt(policy(rewrite=(RULE,), proxy=proxy), bad_gateway)
    assert (request.url == "http://new/a") is is_rewritten


def test_a_407_is_the_proxys_refusal_only_with_a_proxy():
    result = AttemptResult(Status.PROXY_REFUSED, "407", http_status=407)
    assert policy().check_proxy(result).status is Status.FORBIDDEN
    assert policy(proxy="http://p:1").check_proxy(result).status is Status.PROXY_REFUSED


def test_sixteen_refusals_by_a_proxy_without_another_answer_are_an_error():
    result = AttemptResult(Status.PROXY_REFUSED, "407", http_status=407)
    rules = policy(proxy="http://me:hunter2@p:1")
    for _ in range(15):
        rules.check_proxy(result)
    with pytest.raises(ShardsError, match="the proxy p:1 refuses the credentials") as caught:
        rules.check_proxy(result)
    assert "hunter2" not in str(caught.value)
    rules = policy(proxy="http://p:1")
    rules.check_proxy(SERVER_ERROR)
    for _ in range(20):
        rules.check_proxy(result)
