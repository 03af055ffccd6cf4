"""Rules that say where else a picture may be that its own host answers for no more."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from shards.config.schema import Rewrite


def rewrite(url: str, rules: Iterable[Rewrite]) -> str | None:
    """Returns the URL as the first rule that matches makes it, or None where that is no other http or https URL."""
    for rule in rules:
        found = re.match(rule.match, url)
        if found:
            rewritten = found.expand(rule.replace) + url[found.end() :]
            return rewritten if rewritten != url and is_web_url(rewritten) else None
    return None


def is_web_url(url: str) -> bool:
    """Tells whether it is an http or https URL with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # such as a bracket that doesn't close
        return False
