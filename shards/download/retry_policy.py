"""Decides after each attempt whether a row is finished, tried again later, or requested from a rewritten URL."""

import collections
import dataclasses

from shards.config.schema import AssembleConfig
from shards.download.classify import AttemptResult
from shards.download.host_queue import MAX_DELAY, HostQueue, Request
from shards.download.proxies import Proxies
from shards.download.url_rewrite import rewrite
from shards.errors import ShardsError
from shards.format.outcomes import TRANSIENT_STATUSES, Status

_FIRST_DELAY = 1.0  # seconds before the second attempt; doubled with each further one
_REFUSALS_PER_ATTEMPT = 3  # times `attempts`: refusals in a row after which a host's requests are cancelled
_NO_ANSWER = {Status.DNS, Status.REFUSED, Status.TIMEOUT}
_MAX_UNANSWERED = 8  # requests in a row without an answer, after which a host's URLs are rewritten at once
_MAX_PROXY_REFUSALS = 16  # if all of the first answers are 407, the proxy's credentials are wrong


class RetryPolicy:
    """The state of hosts and proxy, and the decisions on further attempts; it puts nothing into its queue."""

    def __init__(self, config: AssembleConfig) -> None:
        """Create a policy with an empty queue."""
        self._config = config
        self.queue = HostQueue(config.per_host, config.per_host_rate, _REFUSALS_PER_ATTEMPT * config.attempts)
        self._unanswered: collections.Counter[str] = collections.Counter()  # in a row, by host
        self._proxy = Proxies.read(config).first_address()
        self._proxy_works = self._proxy is None
        self._proxy_refusals = 0

    def rewrite_unresponsive(self, request: Request) -> Request | None:
        """Return the request at its rewritten URL if its host does not answer and a rule matches."""
        return self._rewrite(request) if self._unanswered[request.host] >= _MAX_UNANSWERED else None

    def check_proxy(self, result: AttemptResult) -> AttemptResult:
        """Count refusals by the proxy, and return the result with the status that a 407 stands for.

        Raises:
            ShardsError: all answers so far are 407.
        """
        if result.http_status != 407:
            self._proxy_works |= bool(result.http_status)
            return result
        self._proxy_refusals += 1
        if not self._proxy_works and self._proxy_refusals >= _MAX_PROXY_REFUSALS:
            raise ShardsError(
                f"the proxy {self._proxy} refuses the credentials (407); give --proxy http://user:password@host:port "
                "and run the same command again"
            )
        return dataclasses.replace(result, status=Status.PROXY_REFUSED if self._proxy else Status.FORBIDDEN)

    def next_attempt(
        self, request: Request, started: float, result: AttemptResult, now: float
    ) -> tuple[Request, float] | None:
        """Return the request to make after an attempt, and its earliest time; None if the result is final."""
        if self._is_unanswered(result):
            self._unanswered[request.host] += 1
            rewritten = self._rewrite(request)
            if rewritten:
                return rewritten, 0.0
        else:
            self._unanswered.pop(request.host, None)
        self._record_host(request, started, result, now)
        attempts = request.attempts - (request.rewritten_after or 0)  # at this URL
        if result.status not in TRANSIENT_STATUSES or attempts >= self._config.attempts:
            return None
        delay = max(_FIRST_DELAY * 2 ** (attempts - 1), result.trace.retry_after or 0.0)
        return dataclasses.replace(request, last_status=result.status), now + min(delay, MAX_DELAY)

    def _record_host(self, request: Request, started: float, result: AttemptResult, now: float) -> None:
        http_status, retry_after = result.http_status, result.trace.retry_after
        if http_status in {429, 503} or (retry_after is not None and result.status is not Status.KEPT):
            self.queue.record_refusal(request, started, now, retry_after or 0.0)
        elif http_status and not 500 <= http_status < 600:
            self.queue.record_answer(request, started)

    def _is_unanswered(self, result: AttemptResult) -> bool:
        """Whether the URL's host did not answer; a proxy reports that with a 502, 503 or 504."""
        if self._proxy and result.http_status in {502, 503, 504}:
            return result.trace.retry_after is None
        return result.http_status is None and result.status in _NO_ANSWER

    def _rewrite(self, request: Request) -> Request | None:
        """Return the request at its rewritten URL; None if no rule matches or it is rewritten already."""
        url = rewrite(request.url, self._config.rewrite) if request.rewritten_after is None else None
        return dataclasses.replace(request, url=url, rewritten_after=request.attempts) if url else None
