"""A real web server on 127.0.0.1 that answers as it is told to, well or badly."""

import contextlib
import dataclasses
import http.server
import socket
import struct
import sys
import threading
import time
from typing import Literal

STALL_LIMIT = 30.0  # seconds after which a stalled answer ends even where nobody closed the server

DRIP_INTERVAL = 0.1  # seconds between two bytes, unless an answer has its own


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer to a GET.

    Attributes:
        body: what is sent.
        status: HTTP status code.
        headers: further headers; Content-Type is image/jpeg unless it is among them.
        ending: how it ends: well; with a reset in mid-body; closed in mid-body; never, stalled in mid-body; a byte at
            a time; well, but of a length that wasn't announced; with more than was announced; well, in chunks; or
            never, in chunks of the body over and over.
        interval: seconds between two bytes that come one at a time.
        delay: seconds before it begins.
        after: how many requests must have come to the server before it begins.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    ending: Literal["whole", "reset", "short", "stall", "drip", "unannounced", "longer", "chunked", "endless"] = "whole"
    interval: float = DRIP_INTERVAL
    delay: float = 0.0
    after: int = 0


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": location})


@dataclasses.dataclass(frozen=True)
class Seen:
    """One request that came: its path, its headers and when it came (time.monotonic)."""

    path: str
    headers: dict[str, str]
    time: float


class LoopbackServer:
    """Serves what `add` told it to, on a free port, for the length of a `with`; what it doesn't know is a 404.

    A path that is a whole URL ("http://host/a.jpg") is what a client asks for that uses this server as its proxy.

    Attributes:
        seen: the requests so far, in order of arrival.
        most_at_once: the most requests that were being answered at one time.
    """

    def __init__(self):
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._at_once = 0
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
        """Answers requests for `path` with each of `answers` in turn, the last one for ever; returns the URL."""
        with self._lock:
            self._answers[path] = list(answers)
        return path if path.startswith("http") else self.url + path

    def times(self, path: str) -> list[float]:
        """Returns when `path` was asked for."""
        with self._lock:
            return [seen.time for seen in self.seen if seen.path == path]

    def take(self, path: str, headers: dict[str, str]) -> Answer:
        with self._lock:
            self.seen.append(Seen(path, headers, time.monotonic()))
            answers = self._answers.get(path) or [Answer(b"no such path", 404, {"Content-Type": "text/plain"})]
            return answers.pop(0) if len(answers) > 1 else answers[0]

    @contextlib.contextmanager
    def answering(self):
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def wait_for_close(self):
        self._closing.wait(STALL_LIMIT)

    def pause(self, seconds: float):
        if seconds:
            self._closing.wait(seconds)

    def wait_for_requests(self, count: int):
        deadline = time.monotonic() + STALL_LIMIT
        while len(self.seen) < count and time.monotonic() < deadline and not self._closing.is_set():
            self.pause(0.02)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: LoopbackServer

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = STALL_LIMIT
    wbufsize = -1  # headers and body leave in one packet

    def log_message(self, *_):
        pass

    def do_GET(self):
        with self.server.owner.answering():
            self._answer()

    def _answer(self):
        answer = self.server.owner.take(self.path, dict(self.headers))
        self.server.owner.pause(answer.delay)
        self.server.owner.wait_for_requests(answer.after)
        self.send_response(answer.status)
        headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(answer.body))} | answer.headers
        if answer.ending in {"unannounced", "chunked", "endless"}:
            del headers["Content-Length"]
            headers |= {"Connection": "close"} if answer.ending == "unannounced" else {"Transfer-Encoding": "chunked"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection |= answer.ending not in {"whole", "unannounced", "chunked"}
        self._send(answer)

    def _send(self, answer: Answer):
        if answer.ending in {"whole", "unannounced"}:
            self.wfile.write(answer.body)
        elif answer.ending == "longer":
            self.wfile.write(answer.body * 2)
        elif answer.ending == "chunked":
            middle = len(answer.body) // 2
            for part in (answer.body[:middle], answer.body[middle:], b""):
                self._send_chunk(part)
        elif answer.ending == "endless":
            deadline = time.monotonic() + STALL_LIMIT
            while time.monotonic() < deadline:  # or until the client hangs up
                self._send_chunk(answer.body)
        elif answer.ending == "drip":
            for place in range(int(STALL_LIMIT / answer.interval)):
                self.wfile.write(answer.body[place : place + 1])
                self.wfile.flush()
                self.server.owner.pause(answer.interval)
        else:
            self._send_half(answer)

    def _send_half(self, answer: Answer):
        self.wfile.write(answer.body[: len(answer.body) // 2])
        self.wfile.flush()
        if answer.ending == "stall":
            self.server.owner.wait_for_close()
        elif answer.ending == "reset":
            # Closed with a linger of 0 seconds, a socket sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _send_chunk(self, body: bytes):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
