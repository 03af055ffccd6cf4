"""Checks redirects (http or https, no private address) and X-Robots-Tag headers."""

import ipaddress
import socket
from collections.abc import Collection, Generator, Iterable
from urllib.parse import urlsplit

from shards.download.request_trace import RequestTrace

USER_AGENT = "stylefinetune"
_OUR_NAMES = {"", "*", USER_AGENT}
_DIRECTIVES_WITH_VALUE = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
_IMPLIED_DIRECTIVES = {"none": ("noindex", "nofollow")}


def find_refused_redirect(trace: RequestTrace, *, allow_private: bool) -> str | None:
    """Return the reason, in one line, why a URL's redirects are refused, or None.

    A list's own URL may name any host, and a redirect may stay on that host. Any other host must have a public address,
    both as written in the URL and as resolved by aria2. Behind a proxy, which resolves names itself, only the address
    in the URL is checked.
    """
    for url in trace.redirects:
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:  # for example an unclosed bracket
            return f"redirects to {url[:200]}, which is not a valid URL"
        if parts.scheme.lower() not in {"http", "https"} or not host:
            return f"redirects to {url[:200]}, which is neither http nor https"
        if allow_private or host == trace.host:
            continue
        private = _find_private([*_addresses_in(host), *trace.addresses.get(host, ())])
        if private:
            named = "" if private == host else f", which is {private}"
            return f"redirects to {host}{named}: not a public address; to allow it, give --allow_private"
    return None


def _addresses_in(host: str) -> list[str]:
    """Return the address that a URL's host denotes without name resolution; empty for any name but localhost.

    127.1, 2130706433 and 0x7f000001 are all 127.0.0.1. RFC 6761 reserves the name localhost for it.
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


def find_disallowed_directive(headers: Iterable[str], disallowed: Collection[str]) -> str | None:
    """Return the first disallowed directive of a response's X-Robots-Tag headers, or None."""
    for header in headers:
        for directive in _directives_for_us(header.lower()):
            if directive in disallowed or not set(_IMPLIED_DIRECTIVES.get(directive, ())).isdisjoint(disallowed):
                return directive
    return None


def _directives_for_us(header: str) -> Generator[str]:
    """Yield the directives for every robot or for ours; in "somebot: noindex, nofollow" both are for somebot alone."""
    robot = ""
    for part in header.split(","):
        name, colon, rest = part.partition(":")
        if colon and name.strip() not in _DIRECTIVES_WITH_VALUE:
            robot = name.strip()
        if robot in _OUR_NAMES:
            yield (rest if colon else part).strip()
