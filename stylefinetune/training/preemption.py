"""Turns a signal into a flag that the training loop reads, so that the run saves a checkpoint and exits.

The signals are SIGTERM, SIGINT, SIGUSR1 and SIGHUP. All ranks agree on the iteration at which they stop. A second
signal, or 27 s without that agreement, ends the process at once; earlier checkpoints remain.
"""

import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from stylefinetune.distributed.world import World

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
SAME_SIGNAL = 1.0  # seconds in which another signal counts as the same one: the launcher and the scheduler both send it
DEADLINE = 27.0  # seconds after the first signal; torchrun kills at 30


class Preemption:
    """A context manager that handles the signals; enter it in the main thread. A signal to one rank stops all.

    `exit_now` ends the process. A thread calls it with the signal and the reason.
    """

    def __init__(self, world: World, exit_now: Callable[[signal.Signals, str], None]) -> None:
        self._world = world
        self._exit_now = exit_now
        self._signal = 0
        self._agreed = 0
        self._previous_handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Install the handlers and start the thread that receives the signals.

        Python runs a signal handler only when the main thread returns from a library, and it may be in a collective
        that never ends. Python writes to the wake-up descriptor at once, and the thread reads it.
        """
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)  # noqa: FBT003 -- its only argument
        self._previous_wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup
            self._previous_handlers[number] = signal.signal(number, lambda *_: None)  # the thread handles it
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] -- what signal() returned
        signal.set_wakeup_fd(self._previous_wakeup)
        self._sender.close()  # ends the thread

    @property
    def signal(self) -> signal.Signals | None:
        """The signal for which all ranks have agreed to stop."""
        return signal.Signals(self._agreed) if self._agreed else None

    def requested(self) -> bool:
        """Return whether to stop, the same on all ranks; collective, but waits for no rank that is one call behind."""
        if not self._agreed:
            self._agreed = self._world.agree_on_max(self._signal)
        return self._agreed != 0

    def _listen(self) -> None:
        first = 0.0
        while True:
            timeout = max(0.0, first + DEADLINE - time.monotonic()) if first else None
            ready, _, _ = select.select([self._receiver], [], [], timeout)
            if not ready:
                self._exit_now(signal.Signals(self._signal), f"which arrived {DEADLINE:g} s ago")
                return
            numbers = self._receiver.recv(64)
            if not numbers:
                self._receiver.close()
                return
            for number in numbers:
                if number not in SIGNALS:
                    continue
                if not first:
                    first, self._signal = time.monotonic(), number
                elif time.monotonic() - first > SAME_SIGNAL:
                    self._exit_now(signal.Signals(number), "the second signal")
