"""Memory that all ranks of a run share, if they are on one machine."""

import mmap
import os
import secrets
from pathlib import Path

import torch
import torch.distributed as dist

from stylefinetune.distributed.world import World

_NOT_CREATED = -1


def share_memory(world: World, size: int) -> mmap.mmap | None:
    """Return `size` bytes of zeros that all ranks share, or None on every rank if they can't; collective.

    The memory is a file without a name. So it takes no space in /dev/shm, which is small in containers, and the kernel
    frees it when the last rank has exited, however it exits.
    """
    token = secrets.randbits(62)
    file = _create(token, size) if world.is_main else _NOT_CREATED
    created = torch.tensor([os.getpid(), file, token])
    dist.broadcast(created, src=0)
    memory = _map(*created.tolist(), size=size)
    is_shared = bool(world.min(torch.tensor([float(memory is not None)])).item())
    if file != _NOT_CREATED:
        os.close(file)  # the mappings keep it
    return memory if is_shared else None


def _create(token: int, size: int) -> int:
    """Return the descriptor of a file in memory, whose pages are allocated."""
    if not hasattr(os, "memfd_create"):  # it is Linux's
        return _NOT_CREATED
    file = os.memfd_create(_name(token))
    try:
        os.posix_fallocate(file, 0, size)
    except OSError:  # there is not enough memory
        os.close(file)
        return _NOT_CREATED
    return file


def _map(pid: int, file: int, token: int, *, size: int) -> mmap.mmap | None:
    """Map a file that another process on this machine has created; return None if there is no such process."""
    path = Path(f"/proc/{pid}/fd/{file}")
    try:
        if str(path.readlink()) != f"/memfd:{_name(token)} (deleted)":  # this is another machine
            return None
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return mmap.mmap(opened, size)
        finally:
            os.close(opened)
    except OSError:
        return None


def _name(token: int) -> str:
    return f"stylefinetune-{token}"
