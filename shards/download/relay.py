"""Fetches URLs for aria2 through a loopback server that records every redirect and response head completely.

aria2's log shows at most 2 KB of a response head, and aria2 refuses some valid responses, such as a 203. The few URLs
that this concerns are requested from here, and aria2 downloads them from this server.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import secrets
import socket
import ssl
import threading
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import abc, web
from yarl import URL

from shards.config.schema import AssembleConfig
from shards.download.policy import find_refused_redirect
from shards.download.proxies import Proxies
from shards.download.request_trace import RequestTrace
from shards.download.url_rewrite import encode_url
from shards.errors import ShardsError
from shards.format.outcomes import Status

_MAX_HEAD_LINE = 2**16  # bytes
_MAX_HEADERS = 1000
_MAX_REDIRECTS = 20  # as in aria2
_CHUNK = 2**16  # bytes
_REDIRECTS = {300, 301, 302, 303, 307, 308}
_WITHOUT_BODY = {204, 205}
_ENCODINGS = {"x-gzip": "gzip", "x-deflate": "deflate"}  # the second name is the one that aria2 knows
_TRANSFER_ENCODINGS = {"chunked", "identity"}  # those that aria2 accepts
_COPIED_HEADERS = ("Content-Length", "Digest")
_START_TIMEOUT = _STOP_TIMEOUT = 60.0  # seconds
_MAX_MESSAGE = 200  # characters

_STATUS_OF_ERROR = (  # the first that matches
    (aiohttp.ClientConnectorDNSError, Status.DNS),
    (aiohttp.ClientSSLError, Status.TLS_ERROR),
    (TimeoutError, Status.TIMEOUT),
    (aiohttp.ClientPayloadError, Status.INCOMPLETE),
    (aiohttp.ClientResponseError, Status.BAD_RESPONSE),
    (aiohttp.ClientConnectionError, Status.REFUSED),
)

_current: contextvars.ContextVar[RequestTrace] = contextvars.ContextVar("trace")


@dataclasses.dataclass
class _Entry:
    """A URL that aria2 may request from the relay."""

    url: str
    trace: RequestTrace


class Relay:
    """A server on the loopback interface that answers requests for registered URLs only; the first one starts it."""

    def __init__(self, config: AssembleConfig) -> None:
        """Prepare a relay with the config's timeout, proxy and rules for redirects."""
        self._config = config
        self._proxies = Proxies.read(config)
        self._entries: dict[str, _Entry] = {}  # by path
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port = 0

    def register(self, url: str) -> str:
        """Return the URL at which aria2 gets `url`."""
        if self._loop is None:
            self._start()
        path = f"/{secrets.token_urlsafe(16)}"
        self._entries[path] = _Entry(url, RequestTrace(host=urlsplit(url).hostname or ""))
        return f"http://127.0.0.1:{self._port}{path}"

    def take_trace(self, relay_url: str) -> RequestTrace:
        """Return the trace of a registered URL whose download has stopped, and forget the URL."""
        return self._entries.pop(urlsplit(relay_url).path).trace

    def stop(self) -> None:
        """Stop the server if it runs, and end its requests."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_STOP_TIMEOUT)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(_START_TIMEOUT)

    async def _serve(self) -> None:
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self._config.allow_private),
            use_dns_cache=False,
            force_close=True,  # each request resolves its host, so that each address is checked
            limit=0,
            ssl=ssl.create_default_context(),
        )
        timeout = self._config.timeout
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
            max_line_size=_MAX_HEAD_LINE,
            max_field_size=_MAX_HEAD_LINE,
            max_headers=_MAX_HEADERS,
        )
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = self._entries.get(request.path)
        if entry is None:
            return web.Response(status=404)
        trace = entry.trace
        _current.set(trace)
        answer: web.StreamResponse | None = None
        try:
            response = await self._request(entry, request.headers.get("User-Agent", ""))
            if response is None:
                return web.Response(status=502)
            async with response:
                answer = _answer_for(response)
                await answer.prepare(request)
                await _copy_body(response, answer)
        except aiohttp.ClientHttpProxyError as error:
            trace.http_status = error.status
            return web.Response(status=error.status)
        except (aiohttp.ClientError, TimeoutError, ValueError, ShardsError) as error:
            trace.failure = _failure(error)
            if answer is None:
                return web.Response(status=502)
            if request.transport is not None:
                request.transport.abort()  # so that aria2 doesn't take the body for complete
            raise asyncio.CancelledError from error
        return answer

    async def _request(self, entry: _Entry, agent: str) -> aiohttp.ClientResponse | None:
        """Return the last response after all redirects; None if a redirect is refused or there are too many."""
        trace, url = entry.trace, entry.url
        headers = {"User-Agent": agent, "Accept": "*/*", "Accept-Encoding": "deflate, gzip"}
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=self._proxies.find(url)
            )
            trace.record_response(response.status, response.headers.items())
            if response.headers.get("Transfer-Encoding", "chunked").strip().lower() not in _TRANSFER_ENCODINGS:
                response.close()
                raise aiohttp.ClientResponseError(
                    response.request_info, (), message="this Transfer-Encoding is not supported"
                )
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            response.close()
            with contextlib.suppress(ValueError):  # not a valid URL, for example because of an unclosed bracket
                location = urljoin(url, location)
            url = encode_url(location)
            trace.redirects.append(url)
            if find_refused_redirect(trace, allow_private=self._config.allow_private):
                return None
        trace.failure = Status.TOO_MANY_REDIRECTS, f"more than {_MAX_REDIRECTS} redirects"
        return None


class _CheckedResolver(abc.AbstractResolver):
    """A resolver that records the addresses of redirect targets and refuses private ones before a connection."""

    def __init__(self, allow_private: bool) -> None:  # noqa: FBT001 - the only argument
        self._allow_private = allow_private
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[abc.ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        trace = _current.get()
        if trace.redirects:
            trace.addresses.setdefault(host.lower(), []).extend(str(result["host"]) for result in found)
            refused = find_refused_redirect(trace, allow_private=self._allow_private)
            if refused:
                raise OSError(refused)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _answer_for(response: aiohttp.ClientResponse) -> web.StreamResponse:
    """Return the answer for aria2 to a response, without a body: any success is a 200, and x-gzip is gzip."""
    is_success = 200 <= response.status < 300 and response.status not in _WITHOUT_BODY
    answer = web.StreamResponse(status=200 if is_success else response.status)
    for name in _COPIED_HEADERS:
        if name in response.headers:
            answer.headers[name] = response.headers[name]
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding:
        answer.headers["Content-Encoding"] = _ENCODINGS.get(encoding, encoding)
    return answer


async def _copy_body(response: aiohttp.ClientResponse, answer: web.StreamResponse) -> None:
    """Copy the body until its end, or until aria2 closes the connection, which it does if the body is too large."""
    async for chunk in response.content.iter_chunked(_CHUNK):
        try:
            await answer.write(chunk)
        except ConnectionError:
            return


def _failure(error: Exception) -> tuple[Status, str]:
    """Return the status and message of a request that failed without a complete response."""
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    message = " ".join(text.split())[:_MAX_MESSAGE] or type(error).__name__
    found = (status for kind, status in _STATUS_OF_ERROR if isinstance(error, kind))
    return next(found, Status.DOWNLOAD_ERROR), message
