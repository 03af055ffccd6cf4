"""Runs calls one after another in a thread, for those that may wait for a server without a limit."""

import queue
import threading
from collections.abc import Callable


class Background:
    """The thread starts with the first call. It neither raises nor keeps the process alive; `fail` gets an error."""

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_abandoned = False

    def submit(self, call: Callable[[], None]) -> None:
        """Run `call` after those submitted before."""
        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="background", daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until all calls have ended, for at most `seconds`, and return whether they have."""
        if self._thread is None:
            return True
        ended = threading.Event()
        self._calls.put(ended.set)
        return ended.wait(seconds)

    def abandon(self) -> None:
        """Start no further call, and report no error any more."""
        self._is_abandoned = True

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if self._is_abandoned:
                return
            try:
                call()
            except Exception as error:  # noqa: BLE001 -- an error of W&B never stops training
                if not self._is_abandoned:
                    self._fail(error)
