"""Runs in a fork of the server: a Python program, or the launcher of its ranks.

Like torchrun, the launcher holds the store, sets the variables of the ranks, and sends SIGTERM to the other ranks when
one fails.
"""

import atexit
import faulthandler
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

POLL = 0.02  # seconds
TERMINATION_SECONDS = 30  # from SIGTERM to SIGKILL, as in torchrun


def run_program(request):
    """Run the program, or the launcher of its ranks, in this process, and exit."""
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


def launch(request, output):
    """Fork the ranks, wait for them like torchrun, and exit."""
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
        "TORCHELASTIC_RUN_ID": "tests",
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
    """Do what `python ARGUMENTS` does, and exit."""
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
