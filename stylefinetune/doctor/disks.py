"""Checks folders: whether they can be written, their free room, and how fast a file is written and synced."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from stylefinetune.doctor.finding import Finding, gigabytes

_LITTLE_ROOM, _ENOUGH_ROOM = 1e9, 20e9  # bytes
_SLOW = 50e6  # bytes a second
_BLOCK, _BLOCKS = 4 * 2**20, 16  # 64 MiB are written


def check_folder(folder: Path, *, measure: bool = True, enough: float = _ENOUGH_ROOM) -> Finding:
    """Check a folder for shards, runs or staged copies; `measure` also writes and removes a file of 64 MiB."""
    name = "disk"
    if not folder.is_dir():
        return Finding(name, "failed", f"{folder} is not a folder", "create it, or name another --dir")
    usage = shutil.disk_usage(folder)
    found = f"{folder}: {gigabytes(usage.free)} of {gigabytes(usage.total)} free"
    if usage.free < _LITTLE_ROOM:
        return Finding(name, "failed", found, "free some room")
    try:
        speed = _write_speed(folder, _BLOCKS if measure else 0)
    except OSError as error:
        return Finding(name, "failed", f"{folder} can't be written: {error.strerror}", "name a folder of your own")
    if measure:
        found += f", writes {speed / 1e6:,.0f} MB/s"
    if measure and speed < _SLOW:
        return Finding(name, "warning", found, "checkpoints and shards are written slowly; use a local disk")
    if usage.free < enough:
        return Finding(name, "warning", found, "a run may need more room; checkpoint.keep_last limits its checkpoints")
    return Finding(name, "ok", found)


def _write_speed(folder: Path, blocks: int) -> float:
    """Return the bytes a second at which a file is written and synced, which is then removed."""
    block = os.urandom(_BLOCK)  # so that nothing can be compressed
    with tempfile.TemporaryFile(dir=folder) as file:
        started = time.perf_counter()
        for _ in range(blocks):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return blocks * _BLOCK / (time.perf_counter() - started)
