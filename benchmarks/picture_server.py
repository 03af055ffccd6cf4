"""A local web server for the download benchmarks, fast enough not to limit the measurement.

`python -m benchmarks.picture_server` prints its address and serves until its standard input is closed. It answers every
path, and every URL when it is used as a proxy, with a JPEG of 500x333 pixels and about 44 KB, with different bytes for
each path. `--missing` percent of the paths answer 404. Answers wait for `--delay` milliseconds.
"""

import argparse
import asyncio
import sys
import zlib

import cv2
import numpy as np

_PICTURES = 64  # different pictures; the paths differ in a JPEG comment
_QUALITY = 90
_JFIF_END = 20  # the first two markers: SOI, and APP0 with "JFIF", by which some programs detect a JPEG
_MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def draw_jpgs(count: int) -> list[bytes]:
    """Generate JPEGs of 40 to 48 KB, like photographs of that size."""
    random = np.random.default_rng(0)
    jpgs: list[bytes] = []
    for _ in range(count):
        coarse = random.integers(0, 256, (8, 12, 3), np.uint8)
        smooth = cv2.resize(coarse, (500, 333), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        grain = cv2.GaussianBlur(random.normal(0, 26, smooth.shape).astype(np.float32), (0, 0), 0.9)
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        jpgs.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())
    return jpgs


class _Connection(asyncio.Protocol):
    """Answers the GET requests of one connection."""

    def __init__(self, jpgs: list[bytes], missing: int, delay: float) -> None:
        self._jpgs = jpgs
        self._missing = missing
        self._delay = delay
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            request, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            target = request.split(b" ", 2)[1]
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay / 1000, self._answer, target)
            else:
                self._answer(target)

    def _answer(self, target: bytes) -> None:
        place = zlib.crc32(target)
        if place % 100 < self._missing:
            self._transport.write(_MISSING)
            return
        jpg = self._jpgs[place % len(self._jpgs)]
        comment = b"\xff\xfe" + (len(target) + 2).to_bytes(2, "big") + target
        head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        self._transport.writelines([head % (len(jpg) + len(comment)), jpg[:_JFIF_END], comment, jpg[_JFIF_END:]])


async def serve(missing: int, delay: float) -> None:
    """Serves on a free port until standard input is closed."""
    jpgs = draw_jpgs(_PICTURES)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(jpgs, missing, delay), "127.0.0.1", 0, backlog=512)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.picture_server", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--missing", type=int, default=0, help="percentage of paths that answer 404 (default: 0)")
    parser.add_argument("--delay", type=float, default=0, help="milliseconds before each answer (default: 0)")
    options = parser.parse_args(arguments)
    asyncio.run(serve(options.missing, options.delay))


if __name__ == "__main__":
    main(sys.argv[1:])
