"""Fetches pictures from the web: in parallel, with limits, and from public addresses only."""

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TypeVar

import aiohttp
from aiohttp.hdrs import AUTHORIZATION
from yarl import URL

from stylefinetune.prediction.pictures import FetchLimits, PrivateAddress, UnreadablePicture

PARALLEL = 16  # requests
_ATTEMPTS = 3
_PAUSE = 0.5  # seconds before the second attempt; twice as long before the third
_CONNECT_SECONDS = 10.0
_REDIRECTS = 5
_CHUNK = 2**16  # bytes
_HEADERS = {"User-Agent": "stylefinetune"}
_STOP_SECONDS = 5.0
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_AZURE_PLATFORM = ipaddress.IPv4Address("168.63.129.16")  # serves each virtual machine at Azure its configuration

T = TypeVar("T")
AddressInfo = tuple[int, int, int, str, tuple[object, ...]]  # of socket.getaddrinfo


class _TemporaryError(Exception):
    """An attempt failed for a reason that may pass."""


class _PrivateAddressError(OSError):
    """The server's address isn't public."""


class Fetcher:
    """A thread that fetches URLs; a response body is decoded in `pool`. Proxies are those of the environment."""

    def __init__(self, limits: FetchLimits, pool: Executor) -> None:
        self._limits = limits
        self._pool = pool
        self._loop = asyncio.new_event_loop()
        self._free = asyncio.Semaphore(PARALLEL)
        self._session: aiohttp.ClientSession | None = None
        # A daemon, since a lookup of a name can't be interrupted.
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()

    def submit(self, url: str, decode: Callable[[bytes], T]) -> Future[T]:
        """Return the future result of `decode` for the response body of a URL.

        The future raises UnreadablePicture if the body can't be fetched, and the errors of `decode`.
        """
        return asyncio.run_coroutine_threadsafe(self._fetch_and_decode(url, decode), self._loop)

    def close(self) -> None:
        """Cancel what is not finished; a further call has no effect."""
        if not self._thread.is_alive():
            return
        stopped = asyncio.run_coroutine_threadsafe(self._cancel(), self._loop)
        try:
            stopped.result(_STOP_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_SECONDS)

    async def _cancel(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _fetch_and_decode(self, url: str, decode: Callable[[bytes], T]) -> T:
        async with self._free:  # until the body is decoded, so that few bodies are in memory
            return await self._loop.run_in_executor(self._pool, decode, await self._fetch(url))

    async def _fetch(self, url: str) -> bytes:
        """Return the response body of a URL; a failure that may pass is tried again."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._request(url)
            except _TemporaryError as error:
                if attempt == _ATTEMPTS:
                    raise UnreadablePicture(f"can't be fetched: {error}") from error
            await asyncio.sleep(_PAUSE * 2 ** (attempt - 1))
        raise AssertionError

    async def _request(self, url: str) -> bytes:
        if self._session is None:
            self._session = self._open_session()
        try:
            only_given = _only_credentials_of(url)
            async with self._session.get(url, max_redirects=_REDIRECTS, middlewares=[only_given]) as response:
                if response.status == 429 or response.status >= 500:
                    raise _TemporaryError(f"the server answers {response.status}")
                if response.status != 200:
                    raise UnreadablePicture(f"can't be fetched: the server answers {response.status}")
                return await self._receive(response)
        except TimeoutError as error:
            raise _TemporaryError(f"no complete answer within {self._limits.seconds:g} s") from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _PrivateAddressError):
                raise PrivateAddress(f"can't be fetched: {error.os_error}") from error
            raise _TemporaryError(_one_line(error.os_error)) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise _TemporaryError(_one_line(error) or "the connection broke off") from error
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: an invalid URL
            raise UnreadablePicture(f"can't be fetched: {type(error).__name__}: {_one_line(error)}") from error

    async def _receive(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > self._limits.max_bytes:
                raise UnreadablePicture(f"can't be fetched: more than {self._limits.max_bytes:,} bytes (--max_bytes)")
        return bytes(body)

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, socket_factory=None if self._limits.allow_private else _open_public_socket
            ),
            timeout=aiohttp.ClientTimeout(total=self._limits.seconds, sock_connect=_CONNECT_SECONDS),
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),  # what one URL sets must not change the answers to others
            trust_env=True,
        )


def _only_credentials_of(url: str) -> aiohttp.ClientMiddlewareType:
    """Return a middleware that sends the user and the password in a URL to its own server, and no other credentials.

    With the proxies of the environment, aiohttp also reads ~/.netrc. Its passwords must not be sent: others may choose
    the URL, or the one that it redirects to.
    """
    given = URL(url)

    async def send(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if given.raw_user is None or request.url.origin() != given.origin():
            request.headers.pop(AUTHORIZATION, None)
        return await handler(request)

    return send


def _open_public_socket(info: AddressInfo) -> socket.socket:
    """Return a socket for the address to which aiohttp is about to connect, if it is public.

    So a redirect, or a name whose address changes between two lookups, can't lead to a private one.
    """
    family, kind, protocol, _, place = info
    address = ipaddress.ip_address(str(place[0]).partition("%")[0])
    if not is_public(address):
        raise _PrivateAddressError(f"{address} is not a public address; to allow it, give --allow_private")
    return socket.socket(family, kind, protocol)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address belongs to one machine on the internet; an IPv4 address within an IPv6 one decides."""
    if isinstance(address, ipaddress.IPv6Address):
        if (inner := _inner_address(address)) is not None:
            return is_public(inner)
        if address.is_site_local or address in _LOCAL_NAT64:
            return False
    return address.is_global and not address.is_multicast and address != _AZURE_PLATFORM


def _inner_address(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a mapped, compatible, translated, 6to4, Teredo or NAT64 address contains."""
    if address in _NAT64 or address in _TRANSLATED or int(address) >> 32 == 0:  # ::1.2.3.4, and :: and ::1
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _one_line(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    text = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:200]
