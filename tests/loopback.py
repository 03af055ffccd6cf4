"""A real web server on 127.0.0.1 that answers as it is told to, well or badly; tests and benchmarks download from it."""

import dataclasses
import http.server
import socket
import struct
import threading
from typing import Literal

STALL_LIMIT = 30.0  # seconds after which a stalled answer ends even where nobody closed the server


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer to a GET.

    Attributes:
        body: what is sent.
        status: HTTP status code.
        headers: further headers; Content-Type is image/jpeg unless it is among them.
        ending: how it ends: well; with a reset in mid-body; closed in mid-body; or never, stalled in mid-body.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    ending: Literal["whole", "reset", "short", "stall"] = "whole"


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": location})


class LoopbackServer:
    """Serves what `add` told it to, on a free port, for the length of a `with`; what it doesn't know is a 404.

    A path that is a whole URL ("http://host/a.jpg") is what a client asks for that uses this server as its proxy.

    Attributes:
        seen: of each request so far, its path and headers, in order of arrival.
    """

    def __init__(self):
        self.seen: list[tuple[str, dict[str, str]]] = []
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

    def count(self, path: str) -> int:
        with self._lock:
            return sum(seen == path for seen, _ in self.seen)

    def take(self, path: str, headers: dict[str, str]) -> Answer:
        with self._lock:
            self.seen.append((path, headers))
            answers = self._answers.get(path) or [Answer(b"no such path", 404, {"Content-Type": "text/plain"})]
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def wait_for_close(self):
        self._closing.wait(STALL_LIMIT)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: LoopbackServer


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = STALL_LIMIT
    wbufsize = -1  # headers and body leave in one packet

    def log_message(self, *_):
        pass

    def do_GET(self):
        answer = self.server.owner.take(self.path, dict(self.headers))
        self.send_response(answer.status)
        headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(answer.body))} | answer.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if answer.ending == "whole":
            self.wfile.write(answer.body)
            return
        self.close_connection = True
        self.wfile.write(answer.body[: len(answer.body) // 2])
        self.wfile.flush()
        if answer.ending == "stall":
            self.server.owner.wait_for_close()
        elif answer.ending == "reset":
            # Closed with a linger of 0 seconds, a socket sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
