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
from urllib.parse import urlsplit

from shards.format.outcomes import Status

MAX_DELAY = 60.0  # seconds
_FIRST_PAUSE = 1.0  # seconds after a host's first refusal; doubled with each further one in a row
_RATE_BURST = 0.25  # seconds of unused rate that a host may use up at once, since requests are released in batches
_SAME_URL_DELAY = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class Request:
    """A row's URL to download."""

    row: int  # row number in the list
    url: str  # http or https URL
    folder: Path  # folder for the response body
    attempts: int = 0  # number of attempts made so far for this row
    rewritten_after: int | None = None  # number of attempts made at the list's own URL; None while `url` is that URL
    last_status: Status = Status.CANCELLED  # the row's status if no further attempt is made

    @functools.cached_property
    def host(self) -> str:
        """Return the URL's host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2].lower()


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
    refused_at: float = -math.inf  # time of the last refusal that was counted
    is_cancelled: bool = False  # whether the host has refused too often to be requested again

    @property
    def is_ready(self) -> bool:
        """Whether a waiting request may be released; after a refusal, one at a time until the host answers."""
        limit = 1 if self.refusals else int(self.max_parallel)
        return bool(self.waiting) and not self.is_paused and self.in_flight < limit


class HostQueue:
    """Waiting requests, released round-robin over the hosts.

    Two requests for the same URL are never in flight together. A host that refuses is paused, for longer with each
    refusal in a row, and its requests are cancelled after too many. Callers pass the time; the queue reads no clock.
    """

    def __init__(
        self, per_host: int, rate: float = 0.0, max_refusals: int = 12, jitter: Callable[[], float] = random.random
    ) -> None:
        """Create an empty queue.

        Args:
            per_host: limit on parallel requests to one host.
            rate: limit on requests per second to one host; 0 means no limit.
            max_refusals: refusals in a row after which a host's requests are cancelled.
            jitter: returns random numbers from 0 to 1.
        """
        self._per_host = per_host
        self._rate = rate
        self._max_refusals = max_refusals
        self._jitter = jitter
        self._hosts: dict[str, _Host] = {}
        self._ready: collections.OrderedDict[str, _Host] = collections.OrderedDict()
        self._paused: list[tuple[float, str]] = []  # a heap with each paused host once
        self._urls_in_flight: set[str] = set()
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
            self._enqueue(heapq.heappop(self._delayed)[2])
        while self._paused and self._paused[0][0] <= now:
            host = self._hosts[heapq.heappop(self._paused)[1]]
            host.is_paused = False
            self._pause(host, now)  # the pause may have been extended meanwhile
            self._update_ready(host)
        taken: list[Request] = []
        while self._ready and len(taken) < limit:
            _, host = self._ready.popitem(last=False)
            request = host.waiting.popleft()
            if request.url in self._urls_in_flight:
                self._enqueue(request, now + _SAME_URL_DELAY)
            else:
                host.in_flight += 1
                self._urls_in_flight.add(request.url)
                taken.append(request)
                if self._rate:
                    host.next_by_rate = max(host.next_by_rate, now) + 1 / self._rate
                    host.paused_until = max(host.paused_until, host.next_by_rate - _RATE_BURST)
                    self._pause(host, now)
            self._update_ready(host)
        self._count -= len(taken)
        return taken

    def take_cancelled(self) -> list[Request]:
        """Remove and return the requests whose host has refused too often."""
        cancelled, self._cancelled = self._cancelled, []
        self._count -= len(cancelled)
        return cancelled

    def finish(self, request: Request) -> None:
        """Mark a request from `take` as no longer in flight."""
        host = self._hosts[request.host]
        self._urls_in_flight.discard(request.url)
        host.in_flight -= 1
        self._update_ready(host)

    def record_answer(self, request: Request, started: float) -> None:
        """Record that the host answered a request, sent at `started`, without refusing it."""
        host = self._hosts[request.host]
        if started > host.refused_at:
            host.refusals = 0
            host.max_parallel = min(self._per_host, host.max_parallel + 1 / host.max_parallel)

    def record_refusal(self, request: Request, started: float, now: float, retry_after: float = 0.0) -> None:
        """Pause the host of a request, sent at `started`, by its back-off and by at least `retry_after` seconds.

        Of requests that were in flight together only the first refusal counts.
        """
        host, jitter = self._hosts[request.host], self._jitter()
        pause = retry_after * (1 + jitter / 4)
        if started > host.refused_at:
            host.refusals += 1
            host.refused_at = now
            host.max_parallel = max(1, host.max_parallel / 2)
            pause = max(pause, _FIRST_PAUSE * 2 ** min(host.refusals - 1, 10) * (1 + jitter) / 2)
        host.paused_until = max(host.paused_until, now + min(pause, MAX_DELAY))
        self._pause(host, now)
        if host.refusals >= self._max_refusals and not host.is_cancelled:
            self._cancel(host)
        self._update_ready(host)

    def _enqueue(self, request: Request, not_before: float = 0.0) -> None:
        host = self._hosts.get(request.host)
        if host is None:
            host = self._hosts[request.host] = _Host(request.host, self._per_host)
        if host.is_cancelled:
            self._cancelled.append(request)
        elif not_before > 0:
            heapq.heappush(self._delayed, (not_before, next(self._tiebreak), request))
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
        is_unused = not (host.in_flight or host.waiting or host.refusals or self._rate or host.is_paused)
        if is_unused and host.max_parallel == self._per_host:
            del self._hosts[host.name]
