"""A pool of packing processes, none of which survives Ctrl-C or a kill of the main process."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType
from typing import Any

import cv2

from shards.errors import ShardsError

_interrupted = threading.Event()


class _Process(ForkServerProcess):
    """A process that does not import the caller's program: a script that calls `assemble` would run in it again."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: ANN401, N802 -- multiprocessing's, which has no types
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return ForkServerProcess._Popen(process_obj)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType] # noqa: SLF001 -- the hook of its contexts
        finally:
            sys.modules["__main__"] = main


class _Context(ForkServerContext):
    Process = _Process  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride] -- as in multiprocessing


@contextlib.contextmanager
def packing_pool(count: int) -> Generator[ProcessPoolExecutor]:
    """Yield a pool of `count` processes with one thread each; call `submit` within `hold_interrupts`.

    Raises:
        ShardsError: one of the processes was killed.
    """
    context = _Context()
    context.set_forkserver_preload(["shards.assembly.repack"])  # imports all that the workers run
    resource_tracker.ensure_running()  # before hold_interrupts: it would unblock SIGINT
    with hold_interrupts():
        forkserver.ensure_running()
        pool = ProcessPoolExecutor(count, context, _begin_worker)  # interrupted, it would leave a semaphore behind
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ShardsError("a packing process was killed; run the same command again to resume") from error
    finally:
        with hold_interrupts():
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def hold_interrupts() -> Generator[None]:
    """Delay Ctrl-C until the end of the `with`, for the start of processes.

    Started processes inherit the signal mask. In this process the handler is needed as well, since another thread may
    receive the signal.
    """
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if received:
        signal.raise_signal(signal.SIGINT)


def handle_interrupt(*_: object) -> None:
    """Handle Ctrl-C: raise KeyboardInterrupt once, and ignore further ones so that the cleanup completes.

    Raises:
        KeyboardInterrupt: always.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _interrupted.set()
    raise KeyboardInterrupt


def check_interrupt() -> None:
    """Raise a KeyboardInterrupt again that was lost; Python drops exceptions raised in a finalizer.

    Raises:
        KeyboardInterrupt: `handle_interrupt` has been called.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _begin_worker() -> None:
    """Set up a packing process: one thread, no reaction to Ctrl-C, and an exit when the main process exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # outcomes.parquet names the damaged pictures
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
