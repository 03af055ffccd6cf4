"""What is known about one request besides its body: redirects, resolved addresses and response headers."""

import dataclasses
import datetime as dt
import email.utils
from collections.abc import Iterable

from shards.format.outcomes import Status


@dataclasses.dataclass
class RequestTrace:
    """The redirects and the last response of one URL."""

    host: str = ""  # host of the first request, without its port
    redirects: list[str] = dataclasses.field(default_factory=list[str])  # target of each redirect
    # Addresses by host name, for hosts that were resolved after the first request.
    addresses: dict[str, list[str]] = dataclasses.field(default_factory=dict[str, list[str]])
    http_status: int | None = None  # status code of the last response
    retry_after: float | None = None  # the last response's Retry-After in seconds, or None
    robots: list[str] = dataclasses.field(default_factory=list[str])  # the last response's X-Robots-Tag headers
    content_encoding: str = ""  # the last response's Content-Encoding
    is_cut: bool = False  # whether aria2 logged only the beginning of a response head or redirect
    is_doubtful: bool = False  # whether the response may be that of another request, or this trace another's
    failure: tuple[Status, str] | None = None  # status and message of a request that failed in the relay

    @property
    def final_url(self) -> str | None:
        """Return the target of the last redirect, or None if there was none."""
        return self.redirects[-1] if self.redirects else None

    def record_response(self, http_status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Record a response head; it replaces that of an earlier response."""
        self.http_status, self.retry_after, self.robots, self.content_encoding = http_status, None, [], ""
        for name, value in headers:
            match name.lower():
                case "x-robots-tag":
                    self.robots.append(value)
                case "retry-after":
                    self.retry_after = _parse_retry_after(value.strip())
                case "content-encoding":
                    self.content_encoding = value.strip()
                case "link":  # aria2 downloads the rest from such a mirror (RFC 6249), without a trace
                    self.is_doubtful |= "duplicate" in value.lower()
                case _:
                    pass


def _parse_retry_after(retry_after: str) -> float | None:
    """Parse a Retry-After header, a number of seconds or a date."""
    if retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=dt.UTC)
    return max(0.0, (date - dt.datetime.now(dt.UTC)).total_seconds())
