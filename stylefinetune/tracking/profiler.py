"""Records some iterations with PyTorch's profiler: `--profile START:STOP`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from stylefinetune.distributed.world import World
from stylefinetune.errors import write_error

FOLDER = "profile"
_ROWS = 40  # of the table


class StepProfiler:
    """Profiles some iterations on rank 0; on other ranks it does nothing.

    It writes RUN/profile/START-STOP.json.gz, which https://ui.perfetto.dev opens, and START-STOP.txt, a table of the
    operations that take the longest. `log` gets a line with the path.
    """

    def __init__(self, iterations: range, run_dir: Path, world: World, log: Callable[[str], None]) -> None:
        self._iterations = iterations if world.is_main else range(0)
        self._path = run_dir / FOLDER / f"{iterations.start}-{iterations.stop}.json.gz"
        self._device = world.device
        self._log = log
        self._profiler: Any = None  # PyTorch's is not typed

    def begin(self, iteration: int) -> None:
        """Begin an iteration: start with the first one of the interval, and write after the last."""
        if self._profiler is None and iteration in self._iterations:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
            self._profiler = profile(activities=activities, record_shapes=True)
            self._profiler.start()
        elif iteration not in self._iterations:
            self.finish()

    def finish(self) -> None:
        """Write what is recorded, if anything."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        profiler.stop()
        order = "self_cuda_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        table = self._path.with_name(f"{self._iterations.start}-{self._iterations.stop}.txt")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self._path))
            table.write_text(profiler.key_averages().table(sort_by=order, row_limit=_ROWS), encoding="utf-8")
        except OSError as error:
            raise write_error(self._path, error.strerror) from error
        self._log(f"Profile: {self._path} (open it with ui.perfetto.dev) and {table}")
