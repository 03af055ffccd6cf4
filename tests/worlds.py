"""A fork server: runs Python programs, on one rank or several, without importing torch for each of them.

`fork_server()` starts `python -m tests.worlds SOCKET`. That process imports the project and torch, starts no Python
thread and computes nothing. Each program is a fork of it, with its own arguments, environment, working folder and
output pipes. Several ranks are forks of a launcher, which is a fork too. Like torchrun, it holds the store, sets the
variables of the ranks, and sends SIGTERM to the other ranks when one fails.

Variables that only a starting interpreter reads (PYTHONPATH, OMP_NUM_THREADS, ...) cannot be set for a fork.
"""

import atexit
import contextlib
import dataclasses
import faulthandler
import functools
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    *(f"stylefinetune.{command}" for command in ("train", "evaluate", "predict", "export", "check", "weights")),
    "shards.commands",
    "torch._dynamo",  # which torch imports with the first optimizer
    "torch.nn.parallel.distributed",
)
AT_START = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
POLL = 0.02  # seconds
TERMINATION_SECONDS = 30  # from SIGTERM to SIGKILL, as in torchrun


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
        self._folder = tempfile.mkdtemp(prefix="worlds_")
        self._address = Path(self._folder, "socket")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worlds", self._address],
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


# The rest runs in the server and its forks.


def serve(address):
    """Forks a process for each connection, until standard input is closed."""
    ready = os.dup(1)
    preload()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the client closes stdin
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ, "end")
    selector.register(listener, selectors.EVENT_READ, "start")
    running = {}  # connection -> pid
    os.write(ready, b"ready\n")
    while True:
        for key, _ in selector.select():
            if key.data == "end":
                for pid in running.values():
                    kill_group(pid)
                return
            if key.data == "start":
                connection, _ = listener.accept()
                start_program(connection, selector, running)
            elif key.data == "lost":
                if key.fileobj in running:  # else it has just ended
                    selector.unregister(key.fileobj)
                    kill_group(running[key.fileobj])
            else:
                connection, request = key.data
                selector.unregister(key.fileobj)
                os.close(key.fileobj)
                with contextlib.suppress(KeyError):
                    selector.unregister(connection)
                reply(connection, running.pop(connection), Path(request["output"], "ended"))


def start_program(connection, selector, running):
    """Fork a process for the request of a connection, and register both with the selector."""
    request = json.loads(connection.makefile("r").readline())
    try:
        outputs = open_outputs(Path(request["output"]))
    except OSError:  # the test no longer reads them
        connection.close()
        return
    pid = os.fork()
    if pid == 0:
        selector.close()
        redirect(*outputs)
        os.closerange(3, min(4096, os.sysconf("SC_OPEN_MAX")))
        run_program(request)
    for output in outputs:
        os.close(output)
    running[connection] = pid
    connection.sendall(f"{pid}\n".encode())
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (connection, request))
    selector.register(connection, selectors.EVENT_READ, "lost")


def preload():
    """Imports the modules that programs use, and drops what they print."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    for module in PRELOADED:
        with contextlib.suppress(ImportError):  # the programs that use it report it
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # collections in forks do not touch, and so copy, these objects


def reply(connection, pid, ended):
    """Send the exit codes of a program that has ended to the test."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    codes = ended.read_text() if ended.exists() else json.dumps([[code], code])
    with contextlib.suppress(OSError):  # the test no longer waits
        connection.sendall(codes.encode() + b"\n")
    connection.close()


def kill_group(pid):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def run_program(request):
    """Run the program, or the launcher of its ranks, in this process, and exits."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable(2)  # prints the stacks of all threads at SIGABRT
    if request["ranks"] == 1:
        interpret(request["arguments"])
    launch(request, Path(request["output"]))


def open_outputs(folder):
    """Return the descriptors of a program's standard output and error.

    They are opened before the fork: a reader of a pipe that never had a writer waits for one, also if the program that
    would open it has been killed.
    """
    outputs = [os.open(folder / name, os.O_WRONLY | os.O_NONBLOCK) for name in ("stdout", "stderr")]
    for output in outputs:
        os.set_blocking(output, True)
    return outputs


def redirect(stdout, stderr):
    """Make files the standard output and error."""
    for number, (name, file) in enumerate((("stdout", stdout), ("stderr", stderr)), start=1):
        os.dup2(file, number)
        # A new stream, since the old one remembers whether the server's file could seek.
        setattr(sys, name, os.fdopen(number, "w", 1, "utf-8", "backslashreplace", closefd=False))


def launch(request, output):
    """Forks the ranks, waits for them like torchrun, and exits."""
    from torch.distributed import TCPStore

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    port, ranks = listener.getsockname()[1], request["ranks"]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "TORCHELASTIC_RUN_ID": "worlds",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    pids = {}
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            listener.close()
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0")
            interpret(request["arguments"])
        pids[pid] = rank
    # The store starts threads, so it starts after the forks. Until then the ranks' connections wait in the queue.
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    codes, first, deadline = {}, 0, float("inf")
    while len(codes) < ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pids[pid]] = code = os.waitstatus_to_exitcode(status)
            if code and not first:
                first, deadline = code, time.monotonic() + TERMINATION_SECONDS
                end_ranks(pids, codes, signal.SIGTERM)
        else:
            time.sleep(POLL)
        if time.monotonic() > deadline:
            end_ranks(pids, codes, signal.SIGKILL)
    del store
    (output / "ended").write_text(json.dumps([[codes[rank] for rank in range(ranks)], first]))
    os._exit(0)


def end_ranks(pids, codes, number):
    for pid, rank in pids.items():
        if rank not in codes:
            os.kill(pid, number)


def interpret(arguments):
    """Does what `python ARGUMENTS` does, and exits."""
    code = 1
    try:
        execute(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 -- as an interpreter does
        traceback.print_exc()
    finally:
        # The steps of an interpreter's exit, except freeing the modules: that would copy every page of the server.
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def execute(arguments):
    """Run `-m MODULE`, `-c TEXT` or `FILE`, and give it the arguments that follow."""
    kind, rest = arguments[0], arguments[1:]
    if kind == "-m":
        sys.argv, sys.path[0] = rest, str(Path.cwd())
        if not hasattr(sys.modules.get(rest[0]), "__path__"):
            sys.modules.pop(rest[0], None)  # runpy warns of a module that is imported already
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = arguments, str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
