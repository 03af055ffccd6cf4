"""Runs a program that never waits for the disk: `python -I -S unsynced.py PROGRAM ARGUMENT...`.

aria2 syncs each file when it is complete, has no switch for that, and does nothing else meanwhile. Its files here are
bodies that are gone once they are packed: what a power cut takes is downloaded again, and a block is synced when it is
committed. So the kernel is told, as systemd's SuppressSync= tells it, to call a sync done. Where it can't be, as in a
container that forbids it, the program runs as it is.
"""

import ctypes
import os
import struct
import sys

# AUDIT_ARCH_*, and the numbers of fsync and fdatasync there. Source: Linux's uapi headers.
_ARCHITECTURES = {"x86_64": (0xC000003E, 74, 75), "aarch64": (0xC00000B7, 82, 83)}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of classic BPF
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_ALLOW, _SUCCEED = 0x7FFF0000, 0x00050000  # the second is SECCOMP_RET_ERRNO with errno 0: not done, and no error


class _Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def suppress_syncs() -> bool:
    """Makes fsync and fdatasync do nothing in this process and what it becomes; False where that can't be."""
    known = _ARCHITECTURES.get(os.uname().machine)
    if sys.platform != "linux" or known is None:
        return False
    arch, fsync, fdatasync = known
    instructions = [  # code, how many to skip if equal, how many if not, operand
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
    # Without the first an ordinary user may not do the second.
    return prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and prctl(_PR_SET_SECCOMP, _MODE_FILTER, rules) == 0


if __name__ == "__main__":
    suppress_syncs()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - this very process is to become the program
