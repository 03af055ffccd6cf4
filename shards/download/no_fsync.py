"""Run a program whose fsync calls do nothing: `python -I -S no_fsync.py PROGRAM ARGUMENT...`.

aria2 syncs each completed file, waits for that, and has no option against it. The files are response bodies that are
deleted after packing, and blocks are synced when they are committed, so these syncs are not needed. A seccomp filter,
as for systemd's SuppressSync=, makes the kernel report success. If the filter is forbidden, for example in a container,
the program runs without it.
"""

import ctypes
import os
import struct
import sys

# AUDIT_ARCH_* and the system call numbers of fsync and fdatasync. Source: Linux's uapi headers.
_ARCHITECTURES = {"x86_64": (0xC000003E, 74, 75), "aarch64": (0xC00000B7, 82, 83)}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_ALLOW, _SUCCEED = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, and SECCOMP_RET_ERRNO with errno 0


class _Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def suppress_syncs() -> bool:
    """Make fsync and fdatasync do nothing in this process, also after exec; return whether that was possible."""
    known = _ARCHITECTURES.get(os.uname().machine)
    if sys.platform != "linux" or known is None:
        return False
    arch, fsync, fdatasync = known
    instructions = [  # code, instructions to skip if equal, instructions to skip if not, operand
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_IF_EQUAL, 0, 4, arch),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 1, 0, fsync),
        (_JUMP_IF_EQUAL, 0, 1, fdatasync),
        (_RETURN, 0, 0, _SUCCEED),
        (_RETURN, 0, 0, _ALLOW),
    ]
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    prctl = ctypes.CDLL(None).prctl
    rules = ctypes.byref(_Filter(len(instructions), packed))
    # Without PR_SET_NO_NEW_PRIVS only root may set a filter.
    return prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and prctl(_PR_SET_SECCOMP, _MODE_FILTER, rules) == 0


if __name__ == "__main__":
    suppress_syncs()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - this process becomes the program
