"""Serves the pictures of the quickstart on localhost. They are generated, and some of their URLs do not work.

`python -m launch.sample --out DIR` writes DIR/sample.csv, a list with the columns of the official list, and a picture
of each style that isn't in the list (DIR/noir.jpg, ...). It serves the listed URLs until its parent process ends, it
receives a signal to stop, or an hour has passed.
"""

import argparse
import collections
import contextlib
import csv
import dataclasses
import enum
import http.server
import io
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from http import HTTPStatus
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from launch.pictures import STYLES, draw
from launch.scenes import Pixels

SEED = 831486
LIST_NAME = "sample.csv"
PLACEHOLDER_PATH = "/photo_unavailable.png"
LIFETIME = 3600  # seconds; a forgotten server ends by itself

style_names = tuple(STYLES)


class LinkState(enum.Enum):
    """How the server answers a link."""

    ALIVE = "200"
    MISSING = "404"
    GONE = "410"
    UNAVAILABLE = "redirects to the placeholder"
    RECOVERS = "500 to the first request, then 200"
    HTML = "200 with a web page instead of a picture"


# By index modulo 97, which is prime to the 20 labels: every label gets each state. Any 40 pictures have all states.
LINK_STATES = {
    7: LinkState.MISSING,
    11: LinkState.GONE,
    17: LinkState.UNAVAILABLE,
    23: LinkState.RECOVERS,
    31: LinkState.HTML,
    53: LinkState.UNAVAILABLE,
    71: LinkState.MISSING,
    89: LinkState.RECOVERS,
}


def link_state(index: int) -> LinkState:
    """Return how the server answers the link of picture `index`."""
    return LINK_STATES.get(index % 97, LinkState.ALIVE)


def label_of(index: int) -> int:
    """Return the label of picture `index`: 0, 1, ..., 19, 0, 1, ..."""
    return index % len(style_names)


def split_of(index: int) -> str:
    """Return "test" for a fifth of each label's pictures, else "train", as in the official list."""
    return "test" if index // len(style_names) % 5 == 4 else "train"


def encode(pixels: Pixels, suffix: str = ".jpg") -> bytes:
    """Return pixels (uint8[H, W, 3], RGB) as the bytes of a picture file in the format of the suffix."""
    _, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def draw_placeholder() -> Pixels:
    """Draw a placeholder for a removed picture. Its URL has the name of Flickr's own placeholder, its bytes differ."""
    card = np.full((375, 500, 3), 238, np.uint8)
    cv2.circle(card, (250, 150), 46, (170, 170, 170), 4, cv2.LINE_AA)
    cv2.line(card, (218, 118), (282, 182), (170, 170, 170), 4, cv2.LINE_AA)
    cv2.putText(card, "This photo is no longer available", (98, 258), 0, 0.6, (110, 110, 110), 1, cv2.LINE_AA)
    return card


@dataclasses.dataclass(frozen=True)
class Answer:
    """One HTTP response."""

    status: HTTPStatus
    content_type: str = "text/plain"
    body: bytes = b""
    location: str | None = None


class SampleServer(http.server.ThreadingHTTPServer):
    """Serve pictures 0 to images - 1 on 127.0.0.1. Each is drawn when it is requested, which takes 8 ms.

    Attributes:
        images: the number of pictures.
        requests: the number of requests for each path.
    """

    request_queue_size = 128  # a downloader opens its 64 connections at once

    def __init__(self, images: int, seed: int = SEED, port: int = 0) -> None:
        """Bind the port; 0 takes a free one."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.images = images
        self.seed = seed
        self.requests: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._placeholder = encode(draw_placeholder(), ".png")

    @property
    def url(self) -> str:
        """Return the server's address, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str) -> Answer:
        """Count a GET request and return its answer."""
        with self._lock:
            self.requests[path] += 1
            is_first = self.requests[path] == 1
        if path == PLACEHOLDER_PATH:
            return Answer(HTTPStatus.OK, "image/png", self._placeholder)
        match = re.fullmatch(r"/(photos|pages)/(\d+)(\.jpg)?", path)
        if match is None or int(match[2]) >= self.images:
            return Answer(HTTPStatus.NOT_FOUND)
        index = int(match[2])
        return self._page(index) if match[1] == "pages" else self._photo(index, is_first=is_first)

    def handle_error(self, request: object, client_address: object) -> None:
        """Report an error in a request, except that the client closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(cast("socket.socket", request), client_address)

    def _page(self, index: int) -> Answer:
        html = f"<!DOCTYPE html><title>Picture {index}</title><p>{style_names[label_of(index)]}</p>\n"
        return Answer(HTTPStatus.OK, "text/html", html.encode())

    def _photo(self, index: int, *, is_first: bool) -> Answer:
        match link_state(index):
            case LinkState.MISSING:
                return Answer(HTTPStatus.NOT_FOUND)
            case LinkState.GONE:
                return Answer(HTTPStatus.GONE)
            case LinkState.UNAVAILABLE:
                return Answer(HTTPStatus.FOUND, location=PLACEHOLDER_PATH)
            case LinkState.RECOVERS if is_first:
                return Answer(HTTPStatus.INTERNAL_SERVER_ERROR)
            case LinkState.HTML:
                return self._page(index)
            case LinkState.ALIVE | LinkState.RECOVERS:
                return Answer(HTTPStatus.OK, "image/jpeg", encode(draw(label_of(index), self.seed + index)))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds an idle connection is kept
    wbufsize = -1  # headers and body leave in one packet

    def do_GET(self) -> None:
        answer = cast("SampleServer", self.server).answer(self.path)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.location:
            self.send_header("Location", answer.location)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
        """Log nothing: thousands of lines would hide those of the downloader."""


@contextlib.contextmanager
def serve(images: int, seed: int = SEED, port: int = 0) -> Generator[SampleServer]:
    """Serve the sample while the context lasts; port 0 takes a free one."""
    with SampleServer(images, seed, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def write_list(path: Path, images: int, url: str) -> None:
    """Write the list of a server at `url` with the official list's columns, unless the same list exists."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", "image_url", "page_url", "label", "_split"])
    for index in range(images):
        photo, page = f"{url}/photos/{index:05d}.jpg", f"{url}/pages/{index:05d}"
        writer.writerow([f"{index:05d}", photo, page, label_of(index), split_of(index)])
    if path.is_file() and path.read_text(encoding="utf-8") == text.getvalue():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(text.getvalue(), encoding="utf-8")
    draft.replace(path)


def write_examples(folder: Path) -> None:
    """Write a picture of each style that isn't in the list, such as long_exposure.jpg, unless it exists."""
    for label, name in enumerate(style_names):
        path = folder / f"{name.lower().replace(' ', '_')}.jpg"
        if not path.is_file():
            path.write_bytes(encode(draw(label, SEED - 1)))


def listed_port(path: Path) -> int:
    """Return the port that an earlier run wrote into the list, or 0."""
    with contextlib.suppress(OSError, StopIteration), path.open(encoding="utf-8") as rows:
        next(rows)
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", next(rows))
        return int(found[1]) if found else 0
    return 0


def _serve_until_stopped(server: SampleServer, path: Path) -> None:
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda *_: stop.set())
    parent, deadline = os.getppid(), time.monotonic() + LIFETIME
    print(f"Serving {server.images} pictures at {server.url}, listed in {path}", flush=True)
    while os.getppid() == parent and time.monotonic() < deadline and not stop.wait(0.5):
        pass


def main(arguments: list[str] | None = None) -> None:
    """Write the list and serve it, if possible on the port of an earlier run, so that the earlier list stays valid."""
    parser = argparse.ArgumentParser(prog="python -m launch.sample", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the list")
    parser.add_argument("--images", type=int, default=1500, help="number of pictures (default: 1500)")
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error(f"--images is {options.images}; it must be at least 1")
    cv2.setNumThreads(1)  # requests already run in parallel
    path = options.out / LIST_NAME
    try:
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(serve(options.images, port=listed_port(path)))
            except OSError:  # another program uses the port
                server = stack.enter_context(serve(options.images))
            write_list(path, options.images, server.url)
            write_examples(options.out)
            _serve_until_stopped(server, path)
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
