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
import socket
import struct
from dataclasses import dataclass

from . import seccomp
from .native import check, libc, syscall
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
_RIGHTS = struct.Struct("=Qiii4x")  # length, level and type of a control message, one descriptor
_RIGHTS_BYTES = 20  # without what fills it up


@dataclass
class Notice:
    """A call that waits for an answer."""

    id: int
    removes: bool
    """Whether an entry of the folder may disappear; otherwise one may be made."""


class _Piece(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("start", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """``struct msghdr`` of glibc and musl on 64 bits."""

    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("pieces", ctypes.c_void_p),
        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


class Reporting:
    """Has the calls of this process that make, delete or rename files reported to another process.

    All that it needs is made once for all children of a template, because each page that a child writes costs time.
    """

    def __init__(self) -> None:
        """Raises :class:`OSError` on an unknown processor."""
        machine = this_machine()
        if machine is None:
            raise OSError("the system call numbers of this processor are not known")
        text = seccomp.build_notices(machine, MAKING, REMOVING)
        self._program = seccomp.Program(len(text) // 8, text)
        self._number = machine[1]["seccomp"]
        self._flags = ctypes.c_uint(_NEW_LISTENER | _WAIT_KILLABLE)
        self._set_filter, self._at = ctypes.c_uint(_SET_FILTER), ctypes.byref(self._program)
        self._control = ctypes.create_string_buffer(_RIGHTS.size)
        self._piece = _Piece(b"n", 1)
        pieces, control = ctypes.addressof(self._piece), ctypes.addressof(self._control)
        self._message = _Message(None, 0, pieces, 1, control, _RIGHTS.size, 0)
        self._message_at = ctypes.byref(self._message)

    def listen(self) -> int:
        """Begin; returns the descriptor that gets the notices.

        Raises :class:`OSError` if the kernel cannot, or if a container has a listener of its own.
        """
        try:
            return syscall("seccomp", self._number, self._set_filter, self._flags, self._at)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._flags.value & _WAIT_KILLABLE:
                raise
        self._flags.value = _NEW_LISTENER
        return self.listen()

    def begin(self, connection: int) -> None:
        """Begin, and send the descriptor that gets the notices through a socket. Raises :class:`OSError`."""
        listener = self.listen()
        _RIGHTS.pack_into(self._control, 0, _RIGHTS_BYTES, socket.SOL_SOCKET, socket.SCM_RIGHTS, listener)
        check(libc.sendmsg(connection, self._message_at, 0), "sendmsg")
        os.close(listener)


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
