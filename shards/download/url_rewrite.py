"""Rewrite URLs whose host does not answer, by the config's rules."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from shards.config.schema import Rewrite


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
