"""The client of the fork server, which runs Python programs without importing torch for each of them.

`fork_server()` starts `python -m tests.fork_server.server SOCKET`. That process imports the project and torch, starts
no Python thread and computes nothing. Each program is a fork of it, with its own arguments, environment, working folder
and output pipes. Several ranks are forks of a launcher, which is a fork too.

Variables that only a starting interpreter reads (PYTHONPATH, OMP_NUM_THREADS, ...) cannot be set for a fork.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
AT_START = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class Finished:
    """A program that has ended.

    Attributes:
        returncode: of the rank that failed first, negative for a signal; 0 if none failed.
        stdout: of all ranks.
        stderr: of all ranks.
        returncodes: of each rank.
    """

    returncode: int
    stdout: str
    stderr: str
    returncodes: list[int]


class Program:
    """A program under way.

    Attributes:
        pid: of its process, or of the launcher of several ranks.
    """

    def __init__(self, address, request):
        self._folder = Path(tempfile.mkdtemp(prefix="program_"))
        self._outputs = {}  # of the descriptor of each pipe: what has been read
        for name in ("stdout", "stderr"):
            os.mkfifo(self._folder / name)
            self._outputs[os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK)] = bytearray()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(address))
        self._connection.sendall(json.dumps(request | {"output": str(self._folder)}).encode() + b"\n")
        self.pid = self._receive()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def poll(self):
        """Return None while the program runs, like that of subprocess.Popen; read its output, so that it can go on."""
        for pipe in self._outputs:
            with contextlib.suppress(BlockingIOError):
                self._outputs[pipe] += os.read(pipe, 65536)
        return select.select([self._connection], [], [], 0)[0] or None

    def wait(self, timeout):
        """Wait until the program has ended and every process that inherited its output has closed it.

        Raises:
            TimeoutError: this took more than `timeout` seconds; the program and its children are killed.
        """
        deadline = time.monotonic() + timeout
        try:
            complete = self._read_outputs(deadline)
            if not complete:  # the processes print where they are
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGABRT)
                self._read_outputs(time.monotonic() + 10)
            output, errors = (read.decode(errors="replace") for read in self._outputs.values())
            if not complete:
                raise TimeoutError(f"still running after {timeout} s:\n{errors}")
            self._connection.settimeout(max(deadline - time.monotonic(), 1))
            returncodes, first = self._receive()
        finally:
            self._connection.close()  # the server kills the program if it still runs
            for pipe in self._outputs:
                os.close(pipe)
            shutil.rmtree(self._folder, ignore_errors=True)
        return Finished(first, output, errors, returncodes)

    def _receive(self):
        """Return the server's next reply; read no further, so that `poll` sees the one after it."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self._connection.recv(1)
            assert byte, "the fork server is gone"
            line += byte
        return json.loads(line)

    def _read_outputs(self, deadline):
        with selectors.DefaultSelector() as selector:
            for pipe in self._outputs:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map() and time.monotonic() < deadline:
                for key, _ in selector.select(max(deadline - time.monotonic(), 0)):
                    read = os.read(key.fd, 65536)
                    self._outputs[key.fd] += read
                    if not read:
                        selector.unregister(key.fd)
            return not selector.get_map()


class ForkServer:
    """The client of a server process."""

    def __init__(self):
        self._folder = tempfile.mkdtemp(prefix="fork_server_")
        self._address = Path(self._folder, "socket")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server.server", self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **AT_START},
        )
        assert self._process.stdout.readline() == b"ready\n"

    def start(self, *arguments, ranks=1, env=None, cwd=ROOT):
        """Start `python ARGUMENTS` on that number of ranks; a single rank has no launcher."""
        given = {**os.environ, **(env or {})}
        late = {name for name in env or {} if name.startswith(("PYTHON", "OMP_", "MALLOC_", "LD_"))} - AT_START.keys()
        assert not late, f"{late} cannot be set for a fork; start a new interpreter"
        request = {
            "arguments": [str(argument) for argument in arguments],
            "ranks": ranks,
            "environment": given | AT_START,
            "cwd": str(cwd),
        }
        return Program(self._address, request)

    def close(self):
        self._process.stdin.close()  # the server exits
        self._process.stdout.close()
        self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def fork_server():
    """Return the server of this process, and start it at the first call."""
    server = ForkServer()
    atexit.register(server.close)
    return server
