"""Sets up the worker processes that decode pictures for a rank: their signals, and their exit with the rank."""

import _thread
import atexit
import contextlib
import ctypes
import multiprocessing.queues
import multiprocessing.util
import os
import signal
import sys
import weakref
from collections.abc import Generator
from multiprocessing.process import BaseProcess

import cv2

_SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)  # that a rank's process group may get
_BEFORE_FOLDER_IS_REMOVED = -50  # multiprocessing removes its temporary folder at -100
_PR_SET_PDEATHSIG = 1  # Source: Linux's prctl(2).
# Of this process; weak, since each object keeps two files open.
_workers: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


@contextlib.contextmanager
def kill_at_exit() -> Generator[None]:
    """Let the workers that start meanwhile be killed when this process exits, after PyTorch has asked them to end.

    multiprocessing would wait for them without a limit, and a worker that hangs before `start_worker` blocks SIGTERM.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        _workers.update(set(multiprocessing.active_children()) - before)


@atexit.register  # before the functions that PyTorch registers with each worker, which run first
def _kill_workers() -> None:
    hanging = [worker for worker in _workers if worker.is_alive()]
    if hanging:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise for each killed worker
    for worker in hanging:
        worker.kill()


@contextlib.contextmanager
def block_signals() -> Generator[None]:
    """Block signals while workers start; they inherit the mask until `start_worker` has set their handlers."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def start_worker(_worker: int) -> None:
    """Set up this process as a worker; DataLoader calls this in each worker, with its number."""
    _die_with_parent()
    _exit_on_error_in_thread()
    cv2.setNumThreads(0)  # the workers are the parallelism
    # Launchers and schedulers signal the whole process group of a rank. The rank decides whether to stop, and needs
    # pictures until then. So a worker exits only on a SIGTERM that its own rank sent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM, signal.SIGHUP])
    # In CPython 3.11, threading.Thread.start waits forever if there is no memory for the thread.
    _thread.start_new_thread(_exit_on_signal_of_parent, ())


def _exit_on_error_in_thread() -> None:
    """Let this process exit if one of multiprocessing's threads can't send a batch, for example without open files.

    By default the thread prints a traceback and drops the batch, and the rank waits for it forever.
    """
    # Its clean-up may fail for the same reason, which is no news: it prints nothing.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    multiprocessing.util.Finalize(None, os.dup2, (nowhere, 2), exitpriority=_BEFORE_FOLDER_IS_REMOVED)

    def exit_worker(*_: object) -> None:
        os._exit(1)

    sys.excepthook = exit_worker
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(exit_worker)  # pyright: ignore[reportAttributeAccessIssue] # noqa: SLF001 -- a hook for subclasses; the queue is PyTorch's


def _die_with_parent() -> None:
    """Let the kernel kill this process when its rank dies; a worker that hangs would not notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent and parent.pid != os.getppid():  # the rank died before the call above
        os._exit(1)


def _exit_on_signal_of_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM, signal.SIGHUP]).si_pid != os.getppid():
        pass
    os._exit(0)
