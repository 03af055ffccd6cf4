"""A real web server on 127.0.0.1 whose answers a test defines, correct or broken."""

import contextlib
import dataclasses
import http.server
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal

MAX_STALL = 30.0  # seconds after which a stalled answer ends even if nobody closed the server
SLOW_INTERVAL = 0.1  # seconds
BODY = b"\xff\xd8\xff" + bytes(range(256)) * 400  # begins as a JPEG


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer to a GET.

    Attributes:
        body: the response body.
        status: HTTP status code.
        headers: further headers; Content-Type is image/jpeg unless it is among them.
        transfer: how the body is sent. "reset" and "truncated" break off after half of it, with a TCP reset or a plain
            close; "stall" stops there and keeps the connection open; "slow" sends a byte at a time; "no_length" has no
            Content-Length; "overlong" sends more than announced; "chunked" is sent in chunks; "endless" sends the body
            over and over as chunks.
        interval: seconds between two bytes of a "slow" transfer.
        delay: seconds before the answer begins.
        after_requests: how many requests must have reached the server before the answer begins.
        condition: the answer begins once this returns true; None for no condition.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    transfer: Literal[
        "complete", "reset", "truncated", "stall", "slow", "no_length", "overlong", "chunked", "endless"
    ] = "complete"
    interval: float = SLOW_INTERVAL
    delay: float = 0.0
    after_requests: int = 0
    condition: Callable[[], bool] | None = None


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": location})


@dataclasses.dataclass(frozen=True)
class ReceivedRequest:
    """A request: its path, its headers and when it was received (time.monotonic)."""

    path: str
    headers: dict[str, str]
    time: float


class LoopbackServer:
    """A web server on a free port, within a `with`; paths that were not added are answered with 404.

    A path that is a complete URL ("http://host/a.jpg") is requested by a client that uses this server as its proxy.

    Attributes:
        requests: all requests so far, in order of arrival.
        max_concurrent: the largest number of requests that were answered at the same time.
    """

    def __init__(self):
        self.requests: list[ReceivedRequest] = []
        self.max_concurrent = 0
        self._concurrent = 0
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, path: str, *answers: Answer) -> str:
        """Answer requests for `path` with each of `answers` in turn, then always with the last; return the URL."""
        with self._lock:
            self._answers[path] = list(answers)
        return path if path.startswith("http") else self.url + path

    def request_times(self, path: str) -> list[float]:
        """Return when `path` was requested."""
        with self._lock:
            return [request.time for request in self.requests if request.path == path]

    def next_answer(self, path: str, headers: dict[str, str]) -> Answer:
        """Record a request and return the answer to it."""
        with self._lock:
            self.requests.append(ReceivedRequest(path, headers, time.monotonic()))
            answers = self._answers.get(path) or [Answer(b"no such path", 404, {"Content-Type": "text/plain"})]
            return answers.pop(0) if len(answers) > 1 else answers[0]

    @contextlib.contextmanager
    def count_concurrent(self):
        with self._lock:
            self._concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self._concurrent)
        try:
            yield
        finally:
            with self._lock:
                self._concurrent -= 1

    def pause(self, seconds: float):
        """Wait, but no longer than the server runs."""
        if seconds:
            self._closing.wait(seconds)

    def wait_until_due(self, answer: Answer):
        self.pause(answer.delay)
        deadline = time.monotonic() + MAX_STALL
        while time.monotonic() < deadline and not self._closing.is_set():
            if len(self.requests) >= answer.after_requests and (answer.condition is None or answer.condition()):
                return
            self.pause(0.02)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: LoopbackServer

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # the client closed the connection
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = MAX_STALL
    wbufsize = -1  # headers and body are sent in one packet

    def log_message(self, *_):
        pass

    def do_GET(self):
        with self.server.owner.count_concurrent():
            self._answer()

    def _answer(self):
        answer = self.server.owner.next_answer(self.path, dict(self.headers))
        self.server.owner.wait_until_due(answer)
        self.send_response(answer.status)
        headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(answer.body))} | answer.headers
        if answer.transfer in {"no_length", "chunked", "endless"}:
            del headers["Content-Length"]
            headers |= {"Connection": "close"} if answer.transfer == "no_length" else {"Transfer-Encoding": "chunked"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection |= answer.transfer not in {"complete", "no_length", "chunked"}
        self._send(answer)

    def _send(self, answer: Answer):
        if answer.transfer in {"complete", "no_length"}:
            self.wfile.write(answer.body)
        elif answer.transfer == "overlong":
            self.wfile.write(answer.body * 2)
        elif answer.transfer == "chunked":
            middle = len(answer.body) // 2
            for part in (answer.body[:middle], answer.body[middle:], b""):
                self._send_chunk(part)
        elif answer.transfer == "endless":
            deadline = time.monotonic() + MAX_STALL
            while time.monotonic() < deadline:  # the client normally closes the connection earlier
                self._send_chunk(answer.body)
        elif answer.transfer == "slow":
            for position in range(int(MAX_STALL / answer.interval)):
                self.wfile.write(answer.body[position : position + 1])
                self.wfile.flush()
                self.server.owner.pause(answer.interval)
        else:
            self._send_half(answer)

    def _send_half(self, answer: Answer):
        self.wfile.write(answer.body[: len(answer.body) // 2])
        self.wfile.flush()
        if answer.transfer == "stall":
            self.server.owner.pause(MAX_STALL)
        elif answer.transfer == "reset":
            # Closed with a linger of 0 seconds, a socket sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _send_chunk(self, body: bytes):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
