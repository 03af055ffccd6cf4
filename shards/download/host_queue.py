"""Whose turn it is: requests wait here so that no host is asked for too much at once, nor again too soon."""

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
_FIRST_DELAY = 1.0  # seconds of peace after a host's first refusal; doubled with each further one in a row
_CREDIT = 0.25  # seconds of unused rate that a host's requests may make up for, since they are handed out in bunches
_SAME_URL_DELAY = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class Request:
    """One URL to be asked for.

    Attributes:
        row: the list's row.
        url: http or https.
        folder: where its body goes.
        attempts: how often the row was asked for so far.
        rewritten_after: how many of them went to the list's own URL; None while `url` is that one.
        ending: what the row comes to if it is asked for no more.
    """

    row: int
    url: str
    folder: Path
    attempts: int = 0
    rewritten_after: int | None = None
    ending: Status = Status.CANCELLED

    @functools.cached_property
    def host(self) -> str:
        """Returns the URL's host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2].lower()


@dataclasses.dataclass
class _Host:
    """One host's queue and mood.

    Attributes:
        room: how many requests may be out; halved by a refusal, and grown again with every answer.
        waiting: in order.
        out: how many are out.
        due: when the next request is due, by the rate alone.
        rests_until: when it may be asked again.
        is_resting: whether it waits for that moment.
        refusals: how many in a row.
        refused_at: when the last of them that counted came.
        is_given_up: whether it has refused too often to be asked again.
    """

    room: float
    waiting: collections.deque[Request] = dataclasses.field(default_factory=collections.deque[Request])
    out: int = 0
    due: float = 0.0
    rests_until: float = 0.0
    is_resting: bool = False
    refusals: int = 0
    refused_at: float = -math.inf
    is_given_up: bool = False

    @property
    def has_turn(self) -> bool:
        """Tells whether something waits that may go."""
        # While it refuses, one request at a time finds out whether it still does.
        room = 1 if self.refusals else int(self.room)
        return bool(self.waiting) and not self.is_resting and self.out < room


class HostQueue:
    """Requests that wait, handed out host by host in turn.

    Two requests for one URL are never out at the same time. A host that refuses is left in peace, alone, for a time
    that grows with its refusals in a row, and given up in the end. It is told the time, and reads no clock.
    """

    def __init__(
        self, per_host: int, rate: float = 0.0, patience: int = 12, draw: Callable[[], float] = random.random
    ) -> None:
        """Prepares turns for hosts that are all treated alike.

        Args:
            per_host: how many requests to one host may be out at once.
            rate: how many a second may go to one host; 0 is any number.
            patience: after how many refusals in a row a host is given up.
            draw: gives numbers from 0 to 1 for the jitter.
        """
        self._per_host = per_host
        self._rate = rate
        self._patience = patience
        self._draw = draw
        self._hosts: dict[str, _Host] = {}
        self._ready: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._resting: list[tuple[float, str]] = []  # a heap with each resting host once
        self._urls_out: set[str] = set()
        self._later: list[tuple[float, int, Request]] = []
        self._given_up: list[Request] = []
        self._tiebreak = itertools.count()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, request: Request, not_before: float = 0.0) -> None:
        """Lets a request wait, until the clock that `take` is given shows `not_before`."""
        self._count += 1
        self._queue(request, not_before)

    def take(self, limit: int, now: float) -> list[Request]:
        """Hands out up to `limit` requests whose turn it is; each must come back through `done`."""
        while self._later and self._later[0][0] <= now:
            self._queue(heapq.heappop(self._later)[2])
        while self._resting and self._resting[0][0] <= now:
            name = heapq.heappop(self._resting)[1]
            host = self._hosts[name]
            host.is_resting = False
            self._rest(name, host, now)  # it may have been told to rest for longer meanwhile
            self._note(name, host)
        taken: list[Request] = []
        while self._ready and len(taken) < limit:
            name, _ = self._ready.popitem(last=False)
            host = self._hosts[name]
            request = host.waiting.popleft()
            if request.url in self._urls_out:
                self._queue(request, now + _SAME_URL_DELAY)
            else:
                host.out += 1
                self._urls_out.add(request.url)
                taken.append(request)
                self._space(name, host, now)
            self._note(name, host)
        self._count -= len(taken)
        return taken

    def take_given_up(self) -> list[Request]:
        """Hands out the requests that are not worth waiting for any more, their hosts having been given up."""
        given_up, self._given_up = self._given_up, []
        self._count -= len(given_up)
        return given_up

    def done(self, request: Request) -> None:
        """Frees the place that a request took."""
        host = self._hosts[request.host]
        self._urls_out.discard(request.url)
        host.out -= 1
        self._note(request.host, host)

    def answered(self, request: Request, began: float) -> None:
        """Notes that the host of a request, out since `began`, didn't refuse it."""
        host = self._hosts[request.host]
        if began > host.refused_at:
            host.refusals = 0
            host.room = min(self._per_host, host.room + 1 / host.room)

    def refused(self, request: Request, began: float, now: float, retry_after: float = 0.0) -> None:
        """Leaves the host of a request, out since `began`, in peace: it wants fewer, or none for `retry_after` seconds.

        Of requests that were out together only the first refusal counts; the others say nothing new.
        """
        name, jitter = request.host, self._draw()
        host = self._hosts[name]
        pause = retry_after * (1 + jitter / 4)
        if began > host.refused_at:
            host.refusals += 1
            host.refused_at = now
            host.room = max(1, host.room / 2)
            pause = max(pause, _FIRST_DELAY * 2 ** min(host.refusals - 1, 10) * (1 + jitter) / 2)
        host.rests_until = max(host.rests_until, now + min(pause, MAX_DELAY))
        self._rest(name, host, now)
        if host.refusals >= self._patience and not host.is_given_up:
            self._give_up(name, host)
        self._note(name, host)

    def _queue(self, request: Request, not_before: float = 0.0) -> None:
        name = request.host
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(self._per_host)
        if host.is_given_up:
            self._given_up.append(request)
        elif not_before > 0:
            heapq.heappush(self._later, (not_before, next(self._tiebreak), request))
        else:
            host.waiting.append(request)
            self._note(name, host)

    def _space(self, name: str, host: _Host, now: float) -> None:
        """Puts the host's next request off as far as the rate wants it."""
        if self._rate:
            host.due = max(host.due, now) + 1 / self._rate
            host.rests_until = max(host.rests_until, host.due - _CREDIT)
            self._rest(name, host, now)

    def _rest(self, name: str, host: _Host, now: float) -> None:
        if host.rests_until > now and not host.is_resting:
            host.is_resting = True
            heapq.heappush(self._resting, (host.rests_until, name))

    def _give_up(self, name: str, host: _Host) -> None:
        host.is_given_up = True
        self._given_up += host.waiting
        host.waiting.clear()
        self._given_up += [request for _, _, request in self._later if request.host == name]
        self._later = [entry for entry in self._later if entry[2].host != name]
        heapq.heapify(self._later)

    def _note(self, name: str, host: _Host) -> None:
        """Records whether it is the host's turn, and forgets a host that there is nothing to remember of."""
        if host.has_turn:
            self._ready.setdefault(name)
            return
        self._ready.pop(name, None)
        is_as_new = host.room == self._per_host and not (host.refusals or self._rate or host.is_resting)
        if is_as_new and not (host.out or host.waiting):
            del self._hosts[name]
