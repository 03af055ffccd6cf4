"""Checks the limits of a process: open files and shared memory."""

import resource
import shutil
from pathlib import Path

from stylefinetune.doctor.finding import Finding, gigabytes

_FEW_FILES, _ENOUGH_FILES = 512, 4096
_LITTLE_MEMORY, _ENOUGH_MEMORY = 128e6, 2e9  # bytes
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where Linux has it


def check_open_files() -> Finding:
    """Check how many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    found = f"{'any number' if soft == unlimited else f'{soft:,}'} at a time"
    remedy = f"run ulimit -n {_ENOUGH_FILES if hard == unlimited else min(hard, _ENOUGH_FILES)}"
    if hard != unlimited and hard < _ENOUGH_FILES:
        remedy += ", and let an administrator raise the hard limit"
    if soft != unlimited and soft < _FEW_FILES:
        return Finding("open files", "failed", found, remedy)
    if soft != unlimited and soft < _ENOUGH_FILES:
        return Finding("open files", "warning", found, remedy)
    return Finding("open files", "ok", found)


def check_shared_memory(folder: Path = _SHARED_MEMORY) -> Finding:
    """Check the room for the batches that decoding processes share with training."""
    if not folder.is_dir():
        return Finding("shared memory", "ok", f"{folder} doesn't exist; this system has no such limit")
    usage = shutil.disk_usage(folder)
    found = f"{gigabytes(usage.free)} of {gigabytes(usage.total)} of {folder} are free"
    remedy = "enlarge it (docker run --shm-size 8g, or mount -o remount,size=8g), or lower data.workers"
    if usage.free < _LITTLE_MEMORY:
        return Finding("shared memory", "failed", found, remedy)
    if usage.free < _ENOUGH_MEMORY:
        return Finding("shared memory", "warning", found, remedy)
    return Finding("shared memory", "ok", found)
