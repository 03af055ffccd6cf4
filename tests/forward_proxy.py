"""A forward proxy on 127.0.0.1 that stands for the whole web: it draws a picture for any URL that it has a label of."""

import base64
import collections
import enum
import zlib

from launch import sample
from launch.pictures import draw
from tests.loopback import Answer, LoopbackServer, redirect

PLACEHOLDER = "http://s.yimg.com/pw/images/en-us/photo_unavailable.png"


class Fate(enum.Enum):
    """What has become of a URL."""

    ALIVE = enum.auto()
    MISSING = enum.auto()
    UNAVAILABLE = enum.auto()
    HEALS_AFTER_500 = enum.auto()
    HEALS_AFTER_RESET = enum.auto()


# Of every hundred values of a URL's checksum, those up to the number.
SHARES = ((3, Fate.MISSING), (6, Fate.UNAVAILABLE), (8, Fate.HEALS_AFTER_500), (10, Fate.HEALS_AFTER_RESET))


def fate_of(url: str) -> Fate:
    """Returns what the proxy makes of a URL; it is the same in every run."""
    place = zlib.crc32(url.encode()) % 100
    return next((fate for limit, fate in SHARES if place < limit), Fate.ALIVE)


class ForwardProxy(LoopbackServer):
    """Answers `GET http://any-host/...`, as a client asks its proxy; what it has no label of is a 404.

    Attributes:
        asked: how often each URL was asked for.
    """

    def __init__(self, labels: dict[str, int]):
        super().__init__()
        self.asked: collections.Counter[str] = collections.Counter()
        self._labels = labels
        self._placeholder = Answer(
            sample.encode(sample.draw_placeholder(), ".png"), headers={"Content-Type": "image/png"}
        )

    def take(self, path: str, headers: dict[str, str]) -> Answer:
        unknown = super().take(path, headers)
        with self._lock:
            self.asked[path] += 1
            first_time = self.asked[path] == 1
        if path == PLACEHOLDER:
            return self._placeholder
        return self._picture(path, first_time) if path in self._labels else unknown

    def _picture(self, url: str, first_time: bool) -> Answer:
        fate = fate_of(url)
        if fate is Fate.MISSING:
            return Answer(status=404)
        if fate is Fate.UNAVAILABLE:
            return redirect(PLACEHOLDER)
        if fate is Fate.HEALS_AFTER_500 and first_time:
            return Answer(status=500)
        picture = Answer(sample.encode(draw(self._labels[url], zlib.crc32(url.encode()))))
        if fate is Fate.HEALS_AFTER_RESET and first_time:
            return Answer(picture.body, ending="reset")
        return picture


class StrictProxy(LoopbackServer):
    """A forward proxy that answers 407 to everyone who doesn't say that he is `me` with the password `right`."""

    def take(self, path: str, headers: dict[str, str]) -> Answer:
        answer = super().take(path, headers)
        expected = "Basic " + base64.b64encode(b"me:right").decode()
        if headers.get("Proxy-Authorization") == expected:
            return answer
        return Answer(b"who are you?", 407, {"Proxy-Authenticate": 'Basic realm="pictures"'})
