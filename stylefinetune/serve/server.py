"""Runs the application with uvicorn: the socket, signals, and deadlines for slow clients."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from stylefinetune.errors import UserError

_HEADER_SECONDS = 10.0  # for the header of a request
_REQUEST_SECONDS = 120.0  # for the rest of it, and for the response
_STOP_SECONDS = 10  # for the requests in progress when the server stops
_MOST_CONNECTIONS = 512
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PatientProtocol(H11Protocol):
    """HTTP for clients that may be slow, but not for ever: uvicorn alone waits for a header without end."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] -- as in uvicorn
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        self._abort_after(_HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Give a request more time once its header is there."""
        before = self.cycle
        super().data_received(data)
        self._extend_after(before)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, or for the rest of one that was refused."""
        before = self.cycle
        self._abort_after(_HEADER_SECONDS)
        super().on_response_complete()  # which begins a request that is there already
        self._extend_after(before)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _extend_after(self, before: RequestResponseCycle | None) -> None:
        """Give a request that has begun after `before` more time."""
        if self.cycle is not before and not self.cycle.response_complete:
            self._abort_after(_REQUEST_SECONDS)

    def _abort_after(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)


class _Server(uvicorn.Server):
    """Reports when it takes requests."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        self._on_start()


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        UserError: the host is unknown, or the port is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)  # IPv4 of localhost
        listener = socket.create_server((str(address[0]), port), family=family, backlog=512)
    except OSError as error:
        reason = (
            os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        )  # negative: of getaddrinfo
        is_host = not port or isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = "give another --host" if is_host else "give another --port"
        raise UserError(f"{host}:{port} can't be listened to ({reason}); {remedy}") from error
    # Connections inherit it. Otherwise the body of an answer, which follows its head, waits 40 ms for the client.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def build_server(app: ASGIApp, trusted_proxy: str | None, on_start: Callable[[], None]) -> uvicorn.Server:
    """Return a server that isn't running yet.

    Args:
        app: answers the requests.
        trusted_proxy: address of a reverse proxy, whose X-Forwarded headers are believed.
        on_start: called when requests are taken.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of wrong forms, which get an answer
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,  # URLs may have the token
        server_header=False,
        proxy_headers=trusted_proxy is not None,
        forwarded_allow_ips=trusted_proxy,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    return _Server(config, on_start)


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM; requests in progress are finished."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn raises the signal again when it has stopped, for the handlers from before: these.
    handlers = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
