"""Limits how many requests a client makes in a second."""

import ipaddress
import time
from collections.abc import Callable

from starlette.requests import Request

_BURST_SECONDS = 2.0  # a client that has paused may make the requests of 2 seconds at once
_LEAST_BURST = 10  # requests
_ROUNDING = 1e-6  # seconds
_MOST_CLIENTS = 10_000  # that are remembered


class RateLimit:
    """A leaky bucket for each client.

    Args:
        rate: requests a second; 0 for any number.
        clock: returns seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._seconds = 1 / rate if rate else 0.0  # of a request
        self._burst = max(_BURST_SECONDS, _LEAST_BURST * self._seconds)
        self._clock = clock
        self._empty_at: dict[str, float] = {}  # when the bucket of a client is empty again

    def take(self, client: str) -> float:
        """Count a request, and return 0; return the seconds to wait if the client has made too many."""
        wait = self.wait(client)
        if self._seconds and not wait:
            now = self._clock()
            if len(self._empty_at) >= _MOST_CLIENTS:
                self._empty_at = {name: time for name, time in self._empty_at.items() if time > now}
            name = client_network(client)
            self._empty_at[name] = max(self._empty_at.get(name, now), now) + self._seconds
        return wait

    def wait(self, client: str) -> float:
        """Return the seconds until a request of the client would be counted; 0 if it would be now."""
        if not self._seconds:
            return 0.0
        now = self._clock()
        wait = max(self._empty_at.get(client_network(client), now), now) + self._seconds - now - self._burst
        return wait if wait > _ROUNDING else 0.0


def client_address(request: Request) -> str:
    """Return the address from which a request comes."""
    return request.client.host if request.client else ""


def client_network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
