"""A queue of requests that limits parallel requests, request rate and back-off for each host."""

import collections
import dataclasses
import functools
import heapq
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

from shards.download.url_rewrite import encode_url, host_and_port, request_target
from shards.format.outcomes import Status

MAX_DELAY = 60.0  # seconds
_FIRST_PAUSE = 1.0  # seconds after a host's first refusal; doubled with each further one in a row
_RATE_BURST = 0.25  # seconds of unused rate that a host may use up at once, since requests are released in batches
_SAME_URL_DELAY = 0.2  # seconds
_FIRST_WEIGHT, _REPEAT_WEIGHT = 1 / 64, 1 / 8  # of the newest answer in a host's shares of refusals
_SINGLE_FIRST_SHARE, _SINGLE_REPEAT_SHARE = 0.1, 0.3  # see _Host.refuses_single_urls


@dataclasses.dataclass(frozen=True)
class Request:
    """A row's URL to download."""

    row: int  # row number in the list
    url: str  # http or https URL
    bodies: Path  # file to which the response body is appended
    attempts: int = 0  # number of attempts made so far for this row
    rewritten_after: int | None = None  # number of attempts made at the list's own URL; None while `url` is that URL
    last_status: Status = Status.CANCELLED  # the row's status if no further attempt is made
    is_relayed: bool = False  # whether the relay requests the URL, since aria2's log did not show all of the response

    @property
    def was_refused(self) -> bool:
        """Whether the last attempt was refused, or failed in the host."""
        return self.last_status in {Status.RATE_LIMITED, Status.SERVER_ERROR}

    @functools.cached_property
    def host(self) -> str:
        """Return the URL's host and port."""
        return host_and_port(self.url)

    @functools.cached_property
    def encoded_url(self) -> str:
        """Return the URL as it is requested."""
        return encode_url(self.url)

    @functools.cached_property
    def target(self) -> str:
        """Return what aria2's log has of the URL; it is the same for URLs that differ in fragment, user or scheme."""
        return request_target(self.encoded_url)


@dataclasses.dataclass
class _Host:
    """The queue and state of one host."""

    name: str
    max_parallel: float  # limit on parallel requests; halved by a refusal, raised again by each answer
    # Requests that may be released, in order.
    waiting: collections.deque[Request] = dataclasses.field(default_factory=collections.deque[Request])
    in_flight: int = 0  # number of requests that are released and not yet finished
    next_by_rate: float = 0.0  # earliest time of the next request according to the rate limit
    paused_until: float = 0.0  # earliest time of the next request
    is_paused: bool = False  # whether the host waits for that time
    refusals: int = 0  # number of refusals in a row
    refused_urls: int = 0  # number of different URLs among them
    refused_at: float = -math.inf  # time of the last refusal that was counted
    first_share: float = 0.0  # moving average over the first requests of URLs: 1 for a refusal, 0 for an answer
    repeat_share: float = 0.0  # the same over requests of URLs that were refused before
    is_cancelled: bool = False  # whether the host has refused too often to be requested again

    @property
    def is_ready(self) -> bool:
        """Whether a waiting request may be released; after a refusal, one at a time until the host answers."""
        limit = 1 if self.refusals else int(self.max_parallel)
        return bool(self.waiting) and not self.is_paused and self.in_flight < limit

    @property
    def refuses_single_urls(self) -> bool:
        """Whether refusals concern single URLs: the same URLs are refused again, and others rarely are.

        A host that refuses because of the number of requests refuses both alike.
        """
        return self.first_share < _SINGLE_FIRST_SHARE and self.repeat_share > _SINGLE_REPEAT_SHARE

    @property
    def should_heed_retry_after(self) -> bool:
        """Whether the host waits for as long as Retry-After says, and not only the refused URL.

        One refusal may concern its URL alone; further refusals in a row of URLs that were refused before say nothing.
        """
        return self.refused_urls > 1 or self.refusals == 2

    def back_off(self) -> float:
        """Return the pause in seconds after a refusal."""
        return _FIRST_PAUSE * 2 ** min(max(self.refused_urls - 1, 0), 10)

    def count(self, request: Request, *, refused: bool) -> None:
        """Add the answer to a request to the shares of refusals."""
        if request.was_refused:
            self.repeat_share += _REPEAT_WEIGHT * (refused - self.repeat_share)
        else:
            self.first_share += _FIRST_WEIGHT * (refused - self.first_share)


class HostQueue:
    """Waiting requests, released round-robin over the hosts.

    Two requests for the same URL are never in flight together. A host that refuses is paused, for longer with each URL
    that it refuses in a row, and its requests are cancelled after too many. A host that refuses only single URLs is not
    paused: each of those URLs has its own wait. Callers pass the time; the queue reads no clock.
    """

    def __init__(
        self, per_host: int, rate: float = 0.0, max_refusals: int = 12, jitter: Callable[[], float] = random.random
    ) -> None:
        """Create an empty queue.

        Args:
            per_host: limit on parallel requests to one host.
            rate: limit on requests per second to one host; 0 means no limit.
            max_refusals: number of different URLs refused in a row after which a host's requests are cancelled.
            jitter: returns random numbers from 0 to 1.
        """
        self._per_host = per_host
        self._rate = rate
        self._max_refusals = max_refusals
        self._jitter = jitter
        self._hosts: dict[str, _Host] = {}
        self._ready: collections.OrderedDict[str, _Host] = collections.OrderedDict()
        self._paused: list[tuple[float, str]] = []  # a heap with each paused host once
        self._targets_in_flight: set[str] = set()
        self._delayed: list[tuple[float, int, Request]] = []
        self._cancelled: list[Request] = []
        self._tiebreak = itertools.count()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, request: Request, not_before: float = 0.0) -> None:
        """Add a request that may be released from the time `not_before` on."""
        self._count += 1
        self._enqueue(request, not_before)

    def take(self, limit: int, now: float) -> list[Request]:
        """Release up to `limit` requests; pass each to `finish` afterwards."""
        while self._delayed and self._delayed[0][0] <= now:
            self._enqueue(heapq.heappop(self._delayed)[2], is_repeat=True)
        while self._paused and self._paused[0][0] <= now:
            host = self._hosts[heapq.heappop(self._paused)[1]]
            host.is_paused = False
            self._pause(host, now)  # the pause may have been extended meanwhile
            self._update_ready(host)
        taken: list[Request] = []
        while self._ready and len(taken) < limit:
            _, host = self._ready.popitem(last=False)
            request = host.waiting.popleft()
            if request.target in self._targets_in_flight:
                self._enqueue(request, now + _SAME_URL_DELAY)
            else:
                host.in_flight += 1
                self._targets_in_flight.add(request.target)
                taken.append(request)
                if self._rate:
                    host.next_by_rate = max(host.next_by_rate, now) + 1 / self._rate
                    host.paused_until = max(host.paused_until, host.next_by_rate - _RATE_BURST)
                    self._pause(host, now)
            self._update_ready(host)
        self._count -= len(taken)
        return taken

    def next_wait(self, now: float) -> tuple[int, str, float] | None:
        """Return what the queue waits for: a number of requests, their host, and seconds until the first of them.

        Returns None if a request is in flight or may be released.
        """
        if self._ready or any(host.in_flight for host in self._hosts.values()):
            return None
        due = [(host.paused_until, host.name) for host in self._hosts.values() if host.is_paused and host.waiting]
        due += [(self._delayed[0][0], self._delayed[0][2].host)] if self._delayed else []
        if not due:
            return None
        time, name = min(due)
        count = sum(request.host == name for _, _, request in self._delayed)
        if name in self._hosts:  # a host whose only requests are delayed may have been forgotten
            count += len(self._hosts[name].waiting)
        return count, name, max(0.0, time - now)

    def take_cancelled(self) -> list[Request]:
        """Remove and return the requests whose host has refused too often."""
        cancelled, self._cancelled = self._cancelled, []
        self._count -= len(cancelled)
        return cancelled

    def finish(self, request: Request) -> None:
        """Mark a request from `take` as no longer in flight."""
        host = self._hosts[request.host]
        self._targets_in_flight.discard(request.target)
        host.in_flight -= 1
        self._update_ready(host)

    def record_answer(self, request: Request, started: float) -> None:
        """Record that the host answered a request, sent at `started`, without refusing it."""
        host = self._hosts[request.host]
        host.count(request, refused=False)
        if started > host.refused_at:
            host.refusals = host.refused_urls = 0
            host.max_parallel = min(self._per_host, host.max_parallel + 1 / host.max_parallel)

    def record_refusal(self, request: Request, started: float, now: float, retry_after: float = 0.0) -> None:
        """Pause the host that refused a request, sent at `started`, for its back-off or for `retry_after` seconds.

        A host that refuses only single URLs is not paused. Of requests that were in flight together only the first
        refusal counts. A URL that was refused before says nothing new about the host: it neither lengthens the back-off
        nor counts towards the cancellation. The caller delays the URL itself.
        """
        host, jitter = self._hosts[request.host], self._jitter()
        host.count(request, refused=True)
        if host.refuses_single_urls:
            return
        pause = 0.0
        if started > host.refused_at:
            host.refusals += 1
            host.refused_urls += not request.was_refused
            host.refused_at = now
            host.max_parallel = max(1, host.max_parallel / 2)
            pause = host.back_off() * (1 + jitter) / 2
        if retry_after and host.should_heed_retry_after:
            pause = retry_after * (1 + jitter / 4)
        host.paused_until = max(host.paused_until, now + min(pause, MAX_DELAY))
        self._pause(host, now)
        if host.refused_urls >= self._max_refusals and not host.is_cancelled:
            self._cancel(host)
        self._update_ready(host)

    def _enqueue(self, request: Request, not_before: float = 0.0, *, is_repeat: bool = False) -> None:
        host = self._hosts.get(request.host)
        if host is None:
            host = self._hosts[request.host] = _Host(request.host, self._per_host)
        if host.is_cancelled:
            self._cancelled.append(request)
        elif not_before > 0:
            heapq.heappush(self._delayed, (not_before, next(self._tiebreak), request))
        else:
            if is_repeat and not host.refusals and not host.refuses_single_urls:
                host.waiting.appendleft(request)  # its answer shows whether the host refuses single URLs
            else:
                host.waiting.append(request)
            self._update_ready(host)

    def _pause(self, host: _Host, now: float) -> None:
        if host.paused_until > now and not host.is_paused:
            host.is_paused = True
            heapq.heappush(self._paused, (host.paused_until, host.name))

    def _cancel(self, host: _Host) -> None:
        """Move all requests of a host to the cancelled ones."""
        host.is_cancelled = True
        self._cancelled += [*host.waiting, *(request for _, _, request in self._delayed if request.host == host.name)]
        host.waiting.clear()
        self._delayed = [entry for entry in self._delayed if entry[2].host != host.name]
        heapq.heapify(self._delayed)

    def _update_ready(self, host: _Host) -> None:
        """Add the host to the ready ones or remove it; forget a host without requests and without history."""
        if host.is_ready:
            self._ready.setdefault(host.name, host)
            return
        self._ready.pop(host.name, None)
        has_history = host.refusals or host.first_share or host.repeat_share
        is_unused = not (host.in_flight or host.waiting or has_history or self._rate or host.is_paused)
        if is_unused and host.max_parallel == self._per_host:
            del self._hosts[host.name]
