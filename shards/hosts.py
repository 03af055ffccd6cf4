"""Whose turn it is: requests wait here so that no host is asked for too much at once, nor again too soon."""

import collections
import dataclasses
import heapq
import itertools
from pathlib import Path
from urllib.parse import urlsplit

_SAME_URL_PAUSE = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class Request:
    """One URL to be asked for.

    Attributes:
        row: the list's row.
        url: http or https.
        folder: where its body goes.
        attempts: how often it was asked for so far.
    """

    row: int
    url: str
    folder: Path
    attempts: int = 0

    @property
    def host(self) -> str:
        """Returns the URL's host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2].lower()


class Turns:
    """Requests that wait, handed out host by host in turn.

    Two requests for one URL are never out at the same time.
    """

    def __init__(self, per_host: int) -> None:
        """Lets at most `per_host` requests to one host be out at once."""
        self._per_host = per_host
        self._waiting: dict[str, collections.deque[Request]] = {}
        self._ready: collections.OrderedDict[str, None] = collections.OrderedDict()  # waiting, with room
        self._out: collections.Counter[str] = collections.Counter()
        self._urls_out: set[str] = set()
        self._later: list[tuple[float, int, Request]] = []
        self._tiebreak = itertools.count()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values()) + len(self._later)

    def put(self, request: Request, not_before: float = 0.0) -> None:
        """Lets a request wait, until the clock that `take` is given shows `not_before`."""
        if not_before > 0:
            heapq.heappush(self._later, (not_before, next(self._tiebreak), request))
            return
        self._waiting.setdefault(request.host, collections.deque()).append(request)
        self._note(request.host)

    def take(self, limit: int, now: float) -> list[Request]:
        """Hands out up to `limit` requests whose turn it is; each must come back through `done`."""
        while self._later and self._later[0][0] <= now:
            self.put(heapq.heappop(self._later)[2])
        taken: list[Request] = []
        while self._ready and len(taken) < limit:
            host, _ = self._ready.popitem(last=False)
            request = self._waiting[host].popleft()
            if request.url in self._urls_out:
                self.put(request, now + _SAME_URL_PAUSE)
            else:
                self._out[host] += 1
                self._urls_out.add(request.url)
                taken.append(request)
            self._note(host)
        return taken

    def done(self, request: Request) -> None:
        """Frees the place that a request took."""
        host = request.host
        self._urls_out.discard(request.url)
        self._out[host] -= 1
        if not self._out[host]:
            del self._out[host]
        self._note(host)

    def _note(self, host: str) -> None:
        """Records whether the host has something waiting and room for it."""
        if not self._waiting.get(host):
            self._waiting.pop(host, None)
            self._ready.pop(host, None)
        elif self._out[host] < self._per_host:
            self._ready.setdefault(host)
        else:
            self._ready.pop(host, None)
