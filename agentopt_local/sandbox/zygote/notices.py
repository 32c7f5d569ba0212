"""Calls that make, delete or rename files wait until the supervisor has agreed (seccomp user notification, Linux 5.5).

Code may delete a file and go on using it, by an open descriptor or a mapped page, without a trace in its folder. So the
supervisor looks at the folder just before, and keeps hold of what it sees (``scratch.py``). It does not look at the
arguments of the call, which the code could change meanwhile, and it either lets the call go on or kills the process.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from . import seccomp
from .native import syscall
from .syscalls import this_machine

MAKING = ("open", "openat", "mkdir", "mkdirat")
REMOVING = ("unlink", "unlinkat", "rename", "renameat", "renameat2")

_SET_FILTER, _NEW_LISTENER = 1, 8
_WAIT_KILLABLE = 32
"""Signals other than SIGKILL wait for the answer (Linux 5.19): a timer of the code would interrupt a removal."""
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV and SECCOMP_IOCTL_NOTIF_SEND
_NOTICE = struct.Struct("=QIIiIQ6Q")  # id, process, flags; number, architecture, instruction, arguments of the call
_ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
_CONTINUE = 1


@dataclass
class Notice:
    """A call that waits for an answer."""

    id: int
    removes: bool
    """Whether an entry of the folder may disappear; otherwise one may be made."""


def build_here() -> bytes:
    """The program that reports such calls and allows all others. Raises :class:`OSError` on an unknown processor."""
    machine = this_machine()
    if machine is None:
        raise OSError("the system call numbers of this processor are not known")
    return seccomp.build_notices(machine, MAKING, REMOVING)


def listen(program: bytes) -> int:
    """Install the program on this process and return the descriptor that gets the notices.

    Raises :class:`OSError` if the kernel cannot, or if a container has a listener of its own.
    """
    machine = this_machine()
    if machine is None:
        raise OSError("the system call numbers of this processor are not known")
    described = seccomp.Program(len(program) // 8, program)
    number = machine[1]["seccomp"]

    def install(flags: int) -> int:
        return syscall("seccomp", number, ctypes.c_uint(_SET_FILTER), ctypes.c_uint(flags), ctypes.byref(described))

    try:
        return install(_NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return install(_NEW_LISTENER)


def receive(listener: int) -> Notice | None:
    """The notice that made ``listener`` readable; None if its process has meanwhile given up the call or ended."""
    data = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, data)
    except OSError:
        return None
    number, _, _, call, *_ = _NOTICE.unpack(data)
    machine = this_machine()
    assert machine is not None
    removing = {machine[1].get(name) for name in REMOVING}
    return Notice(number, call in removing)


def agree(listener: int, notice: Notice) -> None:
    """Let the call go on. If a signal has interrupted it meanwhile, nothing happens, and it is reported again."""
    try:
        fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(notice.id, 0, 0, _CONTINUE)))
    except OSError:
        return


def works_here() -> None:
    """Raise :class:`OSError` if such calls of this process cannot be reported. It cannot make files afterwards."""
    os.close(listen(build_here()))
