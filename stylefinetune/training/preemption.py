"""A signal becomes a question that the loop asks: should the run save what is done, and leave?

SIGTERM, SIGINT, SIGUSR1 and SIGHUP ask for it. All ranks agree on the iteration at which they stop. A second signal, or
half a minute without that agreement, ends the process at once; what was saved before stays.
"""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from stylefinetune.distributed.world import World

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
SAME_SIGNAL = 1.0  # seconds within which a signal counts as the first one's echo: launcher and scheduler both send it
DEADLINE = 27.0  # seconds after the first signal; torchrun kills at 30


class Preemption:
    """Listens for signals as long as its block lasts; in the main thread.

    Args:
        world: the ranks; a signal to one stops all.
        exit_now: ends the process, called from a thread with the signal and why.
    """

    def __init__(self, world: World, exit_now: Callable[[signal.Signals, str], None]) -> None:
        self._world = world
        self._exit_now = exit_now
        self._signal = 0
        self._agreed = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Takes the signals over.

        Python runs a signal's handler only once the main thread is back from whatever library it is in, which may be
        a collective that never ends; the wake-up descriptor is written to at once, and a thread reads it.
        """
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)  # noqa: FBT003 -- its only argument
        self._wakeup_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, _noted)
        self._owner = os.getpid()
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] -- what signal() returned
        signal.set_wakeup_fd(self._wakeup_before)
        self._wake.close()  # ends the thread

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that all ranks have agreed to stop for."""
        return signal.Signals(self._agreed) if self._agreed else None

    def requested(self) -> bool:
        """Says whether to stop, to all ranks alike; collective, but waits for no rank that is a turn behind."""
        if not self._agreed:
            self._agreed = self._world.agree_on_max(self._signal)
        return self._agreed != 0

    def _listen(self) -> None:
        first = 0.0
        while True:
            left = max(0.0, first + DEADLINE - time.monotonic()) if first else None
            ready, _, _ = select.select([self._woken], [], [], left)
            if not ready:
                self._exit_now(signal.Signals(self._signal), f"{DEADLINE:g} s ago")
                return
            numbers = self._woken.recv(64)
            if not numbers:
                self._woken.close()
                return
            for number in numbers:
                if number not in SIGNALS:
                    continue
                if not first:
                    first, self._signal = time.monotonic(), number
                elif time.monotonic() - first > SAME_SIGNAL:
                    self._exit_now(signal.Signals(number), "the second signal")


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Does nothing: the thread has been told."""
