"""Encodes URLs, compares them, and rewrites those whose host does not answer by the config's rules."""

import contextlib
import functools
import re
import urllib.parse
from collections.abc import Iterable
from urllib.parse import urlsplit

from shards.config.schema import Rewrite

# Characters that stay as they are in a URL, besides letters, digits and - . _; aria2 would encode the same ones.
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_HOST = re.compile(r"//(?:[^/?#]*@)?([^/?#:]+)")


_cached = functools.lru_cache(maxsize=4096)  # a URL in flight is looked at several times


@_cached
def encode_url(url: str) -> str:
    """Return a URL with a lower-case scheme, an IDNA-encoded host and percent-encoded special characters."""
    scheme, colon, rest = url.partition(":")
    host = _HOST.match(rest)
    if host and not host[1].isascii():
        with contextlib.suppress(UnicodeError):  # not a valid host name: aria2 reports it
            rest = rest[: host.start(1)] + host[1].encode("idna").decode() + rest[host.end(1) :]
    return urllib.parse.quote(scheme.lower() + colon + rest, safe=_URL_SAFE)


@_cached
def host_and_port(url: str) -> str:
    """Return a URL's host in lower case and its port, if it has one, without leading zeros."""
    host = urlsplit(url).netloc.rpartition("@")[2].lower()
    return re.sub(r":0+(\d)", r":\1", host) if ":0" in host else host


@_cached
def request_target(url: str) -> str:
    """Return what a URL and its logged request have in common: host, port unless it is 80 or 443, path and query."""
    parts = urlsplit(url)
    host = host_and_port(url)
    if ":" in host:
        host = re.sub(r":(80|443)?$", "", host)
    return f"{host}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")


def rewrite(url: str, rules: Iterable[Rewrite]) -> str | None:
    """Return the URL rewritten by the first rule that matches; None if it is no http(s) URL or the same one."""
    for rule in rules:
        found = re.match(rule.match, url)
        if found:
            rewritten = found.expand(rule.replace) + url[found.end() :]
            return rewritten if rewritten != url and is_web_url(rewritten) else None
    return None


def is_web_url(url: str) -> bool:
    """Whether a text is an http or https URL with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # for example an unclosed bracket
        return False
