"""Where a redirect may lead: not out of the web, and not into this machine's or a private network."""

import ipaddress
import socket
from collections.abc import Collection, Generator, Iterable
from urllib.parse import urlsplit

from shards.download.aria2_log import RequestTrace


def find_refused_redirect(trace: RequestTrace, *, allow_private: bool) -> str | None:
    """Says in one line what is wrong with where a URL was redirected to, or None.

    A list's own URL may name any host, and a redirect may stay on that. Another host must be a public one, each on the
    way: by its address as it stands in the URL, or by those that aria2 found for its name. Behind a proxy names are
    resolved there, so that only the former is judged.
    """
    for url in trace.redirects:
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:  # such as a bracket that doesn't close
            return f"redirects to {url[:200]}, which is no URL"
        if parts.scheme.lower() not in {"http", "https"} or not host:
            return f"redirects to {url[:200]}, which is neither http nor https"
        if allow_private or host == trace.host:
            continue
        private = _find_private([*_addresses_in(host), *trace.addresses.get(host, ())])
        if private:
            named = "" if private == host else f", which is {private}"
            return f"redirects to {host}{named}: no public address; --allow_private lets it"
    return None


def _addresses_in(host: str) -> list[str]:
    """Returns the address that a URL's host stands for by itself, in whatever notation; none where it is a name.

    127.1, 2130706433 and 0x7f000001 are all 127.0.0.1, and RFC 6761 keeps the name localhost for it.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return ["127.0.0.1"]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [str(address[0]) for *_, address in found]


def _find_private(addresses: Iterable[str]) -> str | None:
    for text in addresses:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            continue
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if not (mapped or address).is_global:
            return text
    return None


USER_AGENT = "stylefinetune"


_FOR_US = {"", "*", USER_AGENT}


# Directives that take a value, so that their colon doesn't follow a robot's name.
_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


_SHORT_FOR = {"none": ("noindex", "nofollow")}


def find_disallowed_directive(headers: Iterable[str], disallowed: Collection[str]) -> str | None:
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
