"""X-Robots-Tag: what a host says that its answer may not be used for."""

from collections.abc import Collection, Generator, Iterable

USER_AGENT = "stylefinetune"
_FOR_US = {"", "*", USER_AGENT}
# Directives that take a value, so that their colon doesn't follow a robot's name.
_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
_SHORT_FOR = {"none": ("noindex", "nofollow")}


def find_ban(headers: Iterable[str], disallowed: Collection[str]) -> str | None:
    """Returns the first directive of an answer's X-Robots-Tag headers that is among the disallowed, or None."""
    for header in headers:
        for directive in _directives_for_us(header.lower()):
            if directive in disallowed or not set(_SHORT_FOR.get(directive, ())).isdisjoint(disallowed):
                return directive
    return None


def _directives_for_us(header: str) -> Generator[str]:
    """Reads "noai, noimageai", or "somebot: noindex, nofollow", which is for that robot alone up to the next name."""
    robot = ""
    for part in header.split(","):
        name, colon, rest = part.partition(":")
        if colon and name.strip() not in _VALUED:
            robot = name.strip()
        if robot in _FOR_US:
            yield (rest if colon else part).strip()
