"""The processes that decode pictures for a rank: which signals they heed, and that they end with it."""

import _thread
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator

import cv2

_SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)  # that a rank's process group may get
_PR_SET_PDEATHSIG = 1  # Source: Linux's prctl(2).


@contextlib.contextmanager
def hold_signals() -> Generator[None]:
    """Holds signals back while workers start, who inherit that until `start_worker` has said what becomes of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_worker: int) -> None:
    """Makes this process a rank's worker; DataLoader calls it in each, with its number."""
    _end_with_parent()
    cv2.setNumThreads(0)  # the workers are the parallelism
    # Launchers and schedulers signal a rank's whole process group. Whether to stop is for the rank to say, and it still
    # needs its pictures then; so only its own SIGTERM counts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM, signal.SIGHUP])
    # threading.Thread.start waits until the thread runs, and in CPython 3.11 for ever where it is refused memory.
    _thread.start_new_thread(_heed_parent, ())


def _end_with_parent() -> None:
    """Has the kernel kill this process once its rank is gone, which a worker that hangs wouldn't see by itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent and parent.pid != os.getppid():  # gone before it was asked for
        os._exit(1)


def _heed_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM, signal.SIGHUP]).si_pid != os.getppid():
        pass
    os._exit(0)
