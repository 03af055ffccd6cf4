"""Makes the C library keep the memory of freed tensors, so that the next step gets it without page faults.

glibc returns each block of more than 32 MB to the kernel when it is freed, and the kernel clears its pages when a new
block touches them: with CaffeNet and batches of 50, a tenth of a step or more.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # Source: glibc's malloc.h.


def keep_freed_memory() -> bool:
    """Let malloc take all blocks from the heap and never shrink it; return whether the C library is glibc.

    For a process that trains on a CPU, before its first large tensor. The results of the process do not change, but the
    memory that it frees is not available to other processes.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))
