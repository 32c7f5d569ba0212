"""The few C functions that the lock-down needs, called through ctypes."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWUSER = 0x10000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000

_CAPABILITY_VERSION_3 = 0x20080522
_capability_header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_no_capabilities = (ctypes.c_uint32 * 6)()


def check(result: int, what: str) -> int:
    """``result``, or :class:`OSError` naming ``what`` if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, *arguments: int) -> int:
    """``prctl(2)`` with zero for its unused arguments. Raises :class:`OSError`."""
    values = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return check(libc.prctl(ctypes.c_int(option), *values), f"prctl({option})")


def syscall(name: str, number: int, *arguments: object) -> int:
    """A raw system call. Raises :class:`OSError`."""
    return check(int(libc.syscall(ctypes.c_long(number), *arguments)), name)


def unshare(flags: int) -> None:
    """``unshare(2)``. Raises :class:`OSError`."""
    check(libc.unshare(ctypes.c_int(flags)), "unshare")


def drop_capabilities() -> None:
    """Give up every capability of this process. Raises :class:`OSError`."""
    check(libc.capset(_capability_header, _no_capabilities), "capset")
