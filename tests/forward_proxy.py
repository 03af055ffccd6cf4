"""A forward proxy on 127.0.0.1 that replaces the web: it answers any URL of a list with a drawn picture."""

import base64
import collections
import enum
import zlib

from launch import sample
from launch.pictures import draw
from tests.loopback import Answer, LoopbackServer, redirect

PLACEHOLDER = "http://s.yimg.com/pw/images/en-us/photo_unavailable.png"


class UrlState(enum.Enum):
    """How the proxy answers a URL."""

    ALIVE = enum.auto()
    MISSING = enum.auto()
    UNAVAILABLE = enum.auto()
    RECOVERS_AFTER_500 = enum.auto()
    RECOVERS_AFTER_RESET = enum.auto()


# For a checksum modulo 100 below the number, the state.
STATES = (
    (3, UrlState.MISSING),
    (6, UrlState.UNAVAILABLE),
    (8, UrlState.RECOVERS_AFTER_500),
    (10, UrlState.RECOVERS_AFTER_RESET),
)


def url_state(url: str) -> UrlState:
    """Return a URL's state, which depends on the URL alone."""
    checksum = zlib.crc32(url.encode()) % 100
    return next((state for limit, state in STATES if checksum < limit), UrlState.ALIVE)


class ForwardProxy(LoopbackServer):
    """Answer `GET http://any-host/...`, the form in which a client asks its proxy; URLs without a label are a 404.

    Attributes:
        counts: how often each URL was requested.
    """

    def __init__(self, labels: dict[str, int]):
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()
        self._labels = labels
        self._placeholder = Answer(
            sample.encode(sample.draw_placeholder(), ".png"), headers={"Content-Type": "image/png"}
        )

    def next_answer(self, path: str, headers: dict[str, str]) -> Answer:
        not_found = super().next_answer(path, headers)
        with self._lock:
            self.counts[path] += 1
            is_first = self.counts[path] == 1
        if path == PLACEHOLDER:
            return self._placeholder
        return self._answer_listed(path, is_first) if path in self._labels else not_found

    def _answer_listed(self, url: str, is_first: bool) -> Answer:
        state = url_state(url)
        if state is UrlState.MISSING:
            return Answer(status=404)
        if state is UrlState.UNAVAILABLE:
            return redirect(PLACEHOLDER)
        if state is UrlState.RECOVERS_AFTER_500 and is_first:
            return Answer(status=500)
        body = sample.encode(draw(self._labels[url], zlib.crc32(url.encode())))
        is_reset = state is UrlState.RECOVERS_AFTER_RESET and is_first
        return Answer(body, transfer="reset" if is_reset else "complete")


class StrictProxy(LoopbackServer):
    """A forward proxy that answers 407 unless the request has the user `me` and the password `right`."""

    def next_answer(self, path: str, headers: dict[str, str]) -> Answer:
        answer = super().next_answer(path, headers)
        expected = "Basic " + base64.b64encode(b"me:right").decode()
        if headers.get("Proxy-Authorization") == expected:
            return answer
        return Answer(b"who are you?", 407, {"Proxy-Authenticate": 'Basic realm="pictures"'})
