"""Measures how fast the processes of this node add tensors up."""

import datetime as dt
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage] -- documented all the same
from torch.multiprocessing.spawn import ProcessContext, ProcessException, start_processes

_REPEATS = 5


class AllReduceError(Exception):
    """The processes can't add tensors up; the message says why."""


def measure_all_reduce(backend: str, processes: int, size: int, seconds: float) -> float:
    """Return the bus bandwidth of an all-reduce of `size` bytes between new processes, in bytes a second.

    The bus bandwidth is that of NCCL's tests: 2 (n - 1) / n times the size, divided by the time.

    Raises:
        AllReduceError: it fails, is wrong, or takes longer than `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="all_reduce_") as folder:
        arguments = (backend, processes, size, seconds, folder)
        context = start_processes(_add_up, arguments, processes, join=False, start_method="spawn")
        assert context is not None
        try:
            _join(context, seconds)
        finally:
            for process in context.processes:
                if process is not None:
                    process.kill()
                    process.join()
        duration = float((Path(folder) / "seconds").read_text())
    return 2 * (processes - 1) / processes * size / duration


def _join(context: ProcessContext, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    try:
        while not context.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise AllReduceError(f"an all-reduce is not done after {seconds:g} s")
    except ProcessException as error:
        last_line = str(error).strip().splitlines()[-1]
        raise AllReduceError(f"an all-reduce fails: {last_line}") from error


def _add_up(rank: int, backend: str, processes: int, size: int, seconds: float, folder: str) -> None:
    """Run a process; rank 0 writes the seconds of an all-reduce to folder/seconds."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = FileStore(str(Path(folder) / "store"), processes)
    timeout = dt.timedelta(seconds=seconds)
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=timeout)
    values = torch.zeros(size // 4, device=device)
    durations: list[float] = []
    for _ in range(_REPEATS):
        values.fill_(rank + 1)
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        is_right = bool((values == processes * (processes + 1) / 2).all())  # waits for the GPU
        durations.append(time.perf_counter() - started)
        if not is_right:
            raise AllReduceError("a sum is wrong")
    if rank == 0:
        (Path(folder) / "seconds").write_text(str(min(durations)))
    dist.destroy_process_group()
