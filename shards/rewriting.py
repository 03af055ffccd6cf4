"""Rules that say where else a picture may be that its own host answers for no more."""

import dataclasses
import re
from collections.abc import Iterable
from urllib.parse import urlsplit


@dataclasses.dataclass(frozen=True)
class Rewrite:
    r"""One rule.

    Attributes:
        match: regular expression that a URL's beginning must match.
        replace: what that beginning becomes, \1 being the first group.
    """

    match: str
    replace: str

    def find_fault(self) -> str | None:
        """Says in one line what is wrong with it, or None."""
        try:
            re.sub(self.match, self.replace, "")  # compiles both
        except (re.error, IndexError) as error:
            return f"match {self.match!r} and replace {self.replace!r} make no rule: {error}"
        return None


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
