"""Processes that decode and pack beside the driver: started so that Ctrl-C and a killed driver leave none behind."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker

import cv2

from shards.errors import ShardsError

_interrupted = threading.Event()


@contextlib.contextmanager
def packing_pool(count: int) -> Generator[ProcessPoolExecutor]:
    """Yields a pool of `count` processes, one core each; submit to it while `interrupts_held`, which may start one.

    Raises:
        ShardsError: one of them was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shards.__main__"])  # all that a worker imports, once for all of them
    resource_tracker.ensure_running()  # which forkserver would start too, and lets interrupts go when it does
    with hold_interrupts():
        forkserver.ensure_running()
        pool = ProcessPoolExecutor(count, context, _begin_worker)  # a semaphore half made would never be removed
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ShardsError("a packing worker was killed; the same command goes on where this one stopped") from error
    finally:
        with hold_interrupts():
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def hold_interrupts() -> Generator[None]:
    """Holds Ctrl-C back while processes start, so that none is left half told what it is.

    The mask is for them, who inherit it for good; in this process another thread may take the signal all the same.
    """
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)


def handle_interrupt(*_: object) -> None:
    """Ends the command on Ctrl-C; a second one must not break off what the first one puts in order.

    Raises:
        KeyboardInterrupt: always.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _interrupted.set()
    raise KeyboardInterrupt


def check_interrupt() -> None:
    """Ends a loop that Ctrl-C should have ended: Python drops what is raised while it frees an object.

    Raises:
        KeyboardInterrupt: `interrupt` has raised it before, and it was lost.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _begin_worker() -> None:
    """Sets up a packing process: one core each, Ctrl-C is the driver's to handle, and it ends when the driver does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
