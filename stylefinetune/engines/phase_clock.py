"""Measures where the time of a step goes: transform, forward, backward, update."""

import contextlib
import time
from collections.abc import Callable, Generator

import torch
from torch.profiler import record_function


class PhaseClock:
    """Measures the phases of the steps that are asked for, and names the phases of all steps for a profiler.

    On a GPU the host runs ahead, so there the phases are measured by events on the device's stream.

    Args:
        device: device on which the phases run.
        clock: returns seconds; not used on a GPU.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._is_cuda = device.type == "cuda"
        self._clock = clock
        self._is_measuring = False
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def start(self, *, measure: bool) -> None:
        """Forget the last step; measure the next one, or not."""
        self._is_measuring = measure
        self._seconds.clear()
        self._events.clear()

    @contextlib.contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Add the time of a `with` block to the phase `name`."""
        with record_function(name):
            if not self._is_measuring:
                yield
            elif self._is_cuda:
                if torch.cuda.is_current_stream_capturing():  # by a CUDA graph, whose replays have no phases
                    yield
                    return
                began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                began.record()
                yield
                ended.record()
                self._events.append((name, began, ended))
            else:
                began_at = self._clock()
                yield
                self._add(name, self._clock() - began_at)

    def milliseconds(self) -> dict[str, float]:
        """Return the milliseconds of the measured step by phase, as forward_ms; waits for the device.

        With several ranks, the all-reduce of the gradients runs during the backward pass, and is part of it.
        """
        for name, began, ended in self._events:
            ended.synchronize()
            self._add(name, began.elapsed_time(ended) / 1000)
        self._events.clear()
        return {f"{name}_ms": round(seconds * 1000, 3) for name, seconds in self._seconds.items()}

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
