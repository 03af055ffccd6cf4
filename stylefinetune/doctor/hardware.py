"""Checks GPUs and CPU threads."""

import os
import re
from pathlib import Path

import torch

from shards.format import first_line
from stylefinetune.doctor.finding import Finding, gigabytes

_NVIDIA = Path("/proc/driver/nvidia")


def check_gpus(proc: Path = _NVIDIA) -> list[Finding]:
    """Check that PyTorch can use each GPU that the driver has; `proc` is where the driver describes them."""
    in_driver = len(list((proc / "gpus").glob("*")))
    if not torch.cuda.is_available():
        if in_driver:
            remedy = "install a newer driver, or a PyTorch for this driver; see nvidia-smi and CUDA_VISIBLE_DEVICES"
            return [Finding("GPUs", "failed", f"{in_driver} in this machine, but PyTorch can't use them", remedy)]
        return [Finding("GPUs", "ok", "none; runs use the CPU")]
    driver = _driver_version(proc)
    return [_check_gpu(number, driver) for number in range(torch.cuda.device_count())]


def _check_gpu(number: int, driver: str) -> Finding:
    name = f"GPU {number}"
    try:
        free, total = torch.cuda.mem_get_info(number)
        ones = torch.ones(1024, 1024, device=f"cuda:{number}")
        is_right = bool((ones @ ones == 1024).all())
    except RuntimeError as error:
        remedy = "see nvidia-smi; another program may use the GPU, or it is broken"
        return Finding(name, "failed", first_line(error), remedy)
    found = f"{torch.cuda.get_device_name(number)}, {gigabytes(free)} of {gigabytes(total)} free{driver}"
    if not is_right:
        return Finding(name, "failed", f"{found}: a product of matrices is wrong", "don't use this GPU")
    if free < 0.9 * total:
        return Finding(name, "warning", found, "another program uses it; see nvidia-smi")
    return Finding(name, "ok", found)


def _driver_version(proc: Path) -> str:
    try:
        found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", (proc / "version").read_text())
    except OSError:
        found = None
    return f", driver {found[0]}" if found else ""


def check_threads(threads: str | None, cpus: int | None = None) -> Finding:
    """Check the number of CPUs that this process may use, and OMP_NUM_THREADS, which is `threads`."""
    if cpus is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{cpus} for this process, {os.cpu_count()} in the machine; OMP_NUM_THREADS is {threads or 'not set'}"
    if threads and threads.isdecimal() and int(threads) > cpus:
        return Finding(
            "CPUs", "warning", found, f"set OMP_NUM_THREADS to at most {cpus}, divided by the ranks of a node"
        )
    return Finding("CPUs", "ok", found)
