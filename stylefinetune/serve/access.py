"""Decides which requests are answered: by Host, Origin and token; and adds the headers that protect the page."""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stylefinetune.serve.errors import ApiError, busy_error, error_response, rate_error
from stylefinetune.serve.rate_limit import RateLimit, client_address

OPEN_PATHS = frozenset({"/", "/login", "/healthz", "/serve.css", "/serve.js"})  # without a token; "/" asks for it
_HOST = re.compile(r"([\w.-]+|\[[\w:.%]+\])(?::\d*)?", re.ASCII)
_COOKIE_PREFIX = "stylefinetune_"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would send forms with the origin null
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Access:
    """The names of the server, and its token.

    Args:
        hosts: names by which clients may call the server, besides addresses and those of this machine.
        token: which requests must have; None for none.
        rate: wrong tokens a second that a client may try; 0 for any number.
    """

    def __init__(self, hosts: Iterable[str], token: str | None, rate: float) -> None:
        own = {"localhost", socket.gethostname()}
        self._hosts = {host.lower() for host in own.union(hosts)}
        self._token = token
        self._wrong_tokens = RateLimit(rate)

    def check(self, request: Request) -> None:
        """Check a request.

        Raises:
            ApiError: it isn't answered.
        """
        self._check_host(request)
        if request.method not in _SAFE_METHODS:
            _check_origin(request)
        # Not request.url.path, which depends on the Host header.
        if request.scope["path"] not in OPEN_PATHS and not self.is_allowed(request):
            header = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "the request needs the header Authorization: Bearer TOKEN", header)

    def _check_host(self, request: Request) -> None:
        """Check the Host header: a page of another site, whose name has come to point to this server, names itself."""
        host = _host_name(request.headers.get("host", ""))
        if host not in self._hosts and not _is_address(host):
            given = request.headers.get("host", "")[:100]
            raise ApiError(421, f"this server isn't called {given!r}; --allowed_host adds a name")

    def is_allowed(self, request: Request, given: str | None = None) -> bool:
        """Return whether a request has the token: in a header, as the page's cookie, or as the text `given`.

        Raises:
            ApiError: the client has tried too many wrong tokens. This one isn't compared, not even if it is right.
        """
        if self._token is None:
            return True
        tokens = [token for token in (given, _bearer_token(request)) if token is not None]
        if not tokens and not any(name.startswith(_COOKIE_PREFIX) for name in request.cookies):
            return False
        client = client_address(request)
        if seconds := self._wrong_tokens.wait(client):
            raise rate_error("wrong tokens", self._wrong_tokens.rate, seconds)
        session = request.cookies.get(self._cookie_name, "")
        is_right = _is_equal(session, self._derive("session")) or any(_is_equal(token, self._token) for token in tokens)
        if not is_right:
            self._wrong_tokens.take(client)
        return is_right

    def set_cookie(self, request: Request, response: Response) -> None:
        """Let the browser send the cookie of the page from now on, for requests that the page itself makes."""
        response.set_cookie(
            self._cookie_name,
            self._derive("session"),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )

    @property
    def _cookie_name(self) -> str:
        """A name for each token, since the servers at all ports of a machine share their cookies."""
        return f"{_COOKIE_PREFIX}{self._derive('name')[:8]}"

    def _derive(self, purpose: str) -> str:
        """Return a text that only who knows the token can compute, and that doesn't reveal it."""
        return hmac.new((self._token or "").encode(), purpose.encode(), hashlib.sha256).hexdigest()


class AccessMiddleware:
    """Answers requests that fail the check, and adds headers to all responses."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":  # of the server's own start and end
            await self._app(scope, receive, send)
            return

        is_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app
        try:
            self._access.check(Request(scope))
        except ApiError as error:
            app = error_response(error)
        try:
            await app(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the server stops, and has waited for this request long enough
            if not is_started:
                await error_response(busy_error("the server stops"))(scope, receive, send_with_headers)


def _bearer_token(request: Request) -> str | None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _is_equal(given: str, secret: str) -> bool:
    """Return whether a text is the secret; takes equally long for all texts."""
    return hmac.compare_digest(given.encode(), secret.encode())


def _check_origin(request: Request) -> None:
    """Check that no page of another site makes the request; programs that are no browsers send neither header."""
    origin = request.headers.get("origin")
    is_foreign = origin is not None and _place(origin) != _place(f"http://{request.headers['host']}")
    if is_foreign or request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        raise ApiError(403, "pages of other sites may not make this request")


def _place(url: str) -> tuple[str, int | None] | None:
    """Return the host and the port of an origin; the port is None if it is the usual one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname or "", None if port in {80, 443} else port)


def _host_name(header: str) -> str:
    """Return the name or the address in a Host header, without the port; empty if it is not well-formed."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").lower() if match else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
