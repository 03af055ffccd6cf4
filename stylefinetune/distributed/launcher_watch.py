"""Ends a rank whose launcher dies while the ranks join each other; later `rank_monitor` does."""

import contextlib
import os
import sys
import threading
from collections.abc import Generator

from stylefinetune.distributed.environment import Launch, launcher_gone
from stylefinetune.errors import EXIT_LOST_RANK

POLL_SECONDS = 0.5


@contextlib.contextmanager
def watch_launcher(launch: Launch) -> Generator[None]:
    """Watch the launcher, if there is one, from a thread; within the context the process ends with it."""
    if launch.launcher is None:
        yield
        return
    joined = threading.Event()

    def watch() -> None:
        while not joined.wait(POLL_SECONDS):
            if launch.is_orphan:
                sys.stderr.write(f"error: {launcher_gone(launch.rank)}\n")
                sys.stderr.flush()
                os._exit(EXIT_LOST_RANK)

    thread = threading.Thread(target=watch, name="launcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        joined.set()
        thread.join()
