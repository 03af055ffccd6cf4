"""Measures how fast `stylefinetune serve` answers: `python -m benchmarks.serve`.

A CaffeNet of full size with random weights is served twice, by two processes: with batches of up to 32 pictures, and
with batches of one. Clients send JPEGs of 500x333 pixels, each the next one when it has its answer, to one server after
the other. Then, to the server with batches, beside clients that send bad pictures, and beside slow clients.

Prints medians over the rounds: the median and the 99th percentile of the time of an answer, pictures a second, the
server's processor time for a picture, and the median of the ratios to the pictures a second without batches in the same
round.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Sequence
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from benchmarks.feed import draw_pictures
from benchmarks.predict import build_network
from stylefinetune.serve.access import Access
from stylefinetune.serve.app import build_app
from stylefinetune.serve.classifier import PictureClassifier
from stylefinetune.serve.server import build_server, open_socket, run_server
from stylefinetune.serve.settings import Model, Settings

CLIENTS = (1, 8, 64)
BATCHES = Settings(rate=0, workers=os.cpu_count() or 1)
PROGRAMS = {"batches": BATCHES, "one by one": dataclasses.replace(BATCHES, max_batch=1)}
BESIDE = 8  # clients, when others send bad pictures or are slow
BAD_CLIENTS, SLOW_CLIENTS = 8, 100
SLOW_BYTE_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs in a process."""

    address: tuple[str, int]
    process: psutil.Process

    @property
    def url(self) -> str:
        """Where pictures are sent."""
        return f"http://{self.address[0]}:{self.address[1]}/api/predict"


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured in one turn."""

    median_ms: float
    p99_ms: float
    pictures_a_second: float
    processor_ms: float  # of the server, for a picture


def run_in_process(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM."""
    with PictureClassifier(build_network(), settings) as classifier:
        app = build_app(Model("random", {}, ""), classifier, None, Access([], None, rate=0), settings)
        run_server(build_server(app, None, lambda: None), listener)


@contextlib.contextmanager
def start_server(settings: Settings) -> Generator[Server]:
    """Yield a server that is starting."""
    context = multiprocessing.get_context("spawn")
    with open_socket("127.0.0.1", 0) as listener:
        process = context.Process(target=run_in_process, args=(settings, listener), daemon=True)
        process.start()
        address = listener.getsockname()[:2]
    assert process.pid is not None
    try:
        yield Server(address, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.join()


async def send(session: aiohttp.ClientSession, server: Server, body: bytes, status: int = 200) -> None:
    """Send a picture, and check the status of the answer."""
    async with session.post(server.url, data=body) as answer:
        await answer.read()
        assert answer.status == status, (answer.status, await answer.text())


async def measure(server: Server, bodies: list[bytes], clients: int, seconds: float) -> Result:
    """Let `clients` clients send pictures for `seconds`."""
    times: list[float] = []
    turns = itertools.cycle(bodies)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send_until(end: float) -> None:
            while (begun := time.monotonic()) < end:
                await send(session, server, next(turns))
                times.append(time.monotonic() - begun)

        started, processor = time.monotonic(), processor_seconds(server)
        await asyncio.gather(*(send_until(started + seconds) for _ in range(clients)))
        elapsed = time.monotonic() - started
        processor = processor_seconds(server) - processor
    ms = 1000 * np.array(times)
    return Result(float(np.median(ms)), float(np.percentile(ms, 99)), len(ms) / elapsed, 1000 * processor / len(ms))


def processor_seconds(server: Server) -> float:
    """Return the processor time that a server has used."""
    used = server.process.cpu_times()
    return used.user + used.system


@contextlib.asynccontextmanager
async def bad_pictures(server: Server, bodies: list[bytes]) -> AsyncGenerator[None]:
    """Let clients send truncated pictures and text."""
    bad = itertools.cycle([(bodies[0][: len(bodies[0]) // 2], 422), (b"some text" * 1000, 415)])

    async def send_bad() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                await send(session, server, *next(bad))
                await asyncio.sleep(0.1)

    async with running([send_bad() for _ in range(BAD_CLIENTS)]):
        yield


@contextlib.asynccontextmanager
async def slow_clients(server: Server, _: list[bytes]) -> AsyncGenerator[None]:
    """Let clients send headers and bodies a byte at a time, again and again."""
    header = b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"

    async def send_slowly(beginning: bytes) -> None:
        while True:
            with contextlib.suppress(ConnectionError):
                _, writer = await asyncio.open_connection(*server.address)
                writer.write(beginning)
                while True:
                    await writer.drain()
                    await asyncio.sleep(SLOW_BYTE_SECONDS)
                    writer.write(b"x")

    parts: Iterator[bytes] = itertools.cycle([header, header[:60]])
    async with running([send_slowly(next(parts)) for _ in range(SLOW_CLIENTS)]):
        yield


@contextlib.asynccontextmanager
async def running(others: Sequence[Coroutine[None, None, None]]) -> AsyncGenerator[None]:
    """Run coroutines until the end of the block."""
    tasks = [asyncio.create_task(other) for other in others]
    await asyncio.sleep(1)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder), 64, None)
        bodies = [path.read_bytes() for path in sorted(Path(folder).rglob("*.jpg"))]
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(start_server(settings)) for name, settings in PROGRAMS.items()}
        for server in servers.values():
            asyncio.run(measure(server, bodies, 8, 1))
        compare_batches(servers, bodies, options.rounds, options.seconds)
        compare_others(servers["batches"], bodies, options.rounds, options.seconds)
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores for clients and servers")


def compare_batches(servers: dict[str, Server], bodies: list[bytes], rounds: int, seconds: float) -> None:
    """Print the table of servers with and without batches."""
    print("| clients | server | median ms | 99 % ms | pictures/s | processor ms a picture | speed / one by one |")
    print("|---|---|---|---|---|---|---|")
    for clients in CLIENTS:
        turns: dict[str, list[Result]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                turns[name].append(asyncio.run(measure(server, bodies, clients, seconds)))
        for name, results in turns.items():
            pairs = zip(results, turns["one by one"], strict=True)
            ratio = statistics.median(one.pictures_a_second / other.pictures_a_second for one, other in pairs)
            print(f"| {clients} | {name} | {describe(results)} | {ratio:.2f} |", flush=True)


def compare_others(server: Server, bodies: list[bytes], rounds: int, seconds: float) -> None:
    """Print the table of clients beside others."""
    others: dict[str, Callable[[Server, list[bytes]], contextlib.AbstractAsyncContextManager[None]]] = {
        "nobody": lambda _server, _bodies: contextlib.nullcontext(),
        f"{BAD_CLIENTS} clients with bad pictures": bad_pictures,
        f"{SLOW_CLIENTS} slow clients": slow_clients,
    }

    async def measure_beside(name: str) -> Result:
        async with others[name](server, bodies):
            return await measure(server, bodies, BESIDE, seconds)

    turns: dict[str, list[Result]] = {name: [] for name in others}
    for _ in range(rounds):
        for name in others:
            turns[name].append(asyncio.run(measure_beside(name)))
    print(f"\n| {BESIDE} clients beside | median ms | 99 % ms | pictures/s | processor ms a picture |")
    print("|---|---|---|---|---|")
    for name, results in turns.items():
        print(f"| {name} | {describe(results)} |", flush=True)


def describe(results: list[Result]) -> str:
    """Return the medians over the rounds."""
    columns = [statistics.median(column) for column in zip(*map(dataclasses.astuple, results), strict=True)]
    return "{:.0f} | {:.0f} | {:.1f} | {:.1f}".format(*columns)


if __name__ == "__main__":
    main()
