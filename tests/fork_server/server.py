"""The fork server: forks a process for each program that a client asks for, until its standard input is closed."""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

from tests.fork_server.program import run_program

PRELOADED = (
    *(f"stylefinetune.{command}" for command in ("train", "evaluate", "predict", "export", "check", "weights")),
    "shards.commands",
    "torch._dynamo",  # which torch imports with the first optimizer
    "torch.nn.parallel.distributed",
)


def serve(address):
    """Fork a process for each connection, until standard input is closed."""
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
    """Import the modules that programs use, and drops what they print."""
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


if __name__ == "__main__":
    serve(sys.argv[1])
