"""A supervisor's view of a child process and the call that it serves, and how forked processes end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import _exit
from typing import NoReturn

from . import frames
from .capture import CappedOutput
from .frames import FrameReader
from .scratch import ScratchUse

_READY_S = 20.0
_CHUNK = 1 << 18


def run_and_exit(action: Callable[[], object], report: Callable[[BaseException], object], failed: int = 1) -> NoReturn:
    """Run ``action`` in a forked process and end the process: it must never return into its parent's code.

    The exit status is 0, or ``failed`` after ``report`` has been called with whatever ``action`` raised.
    """
    status = failed
    try:
        action()
        status = 0
    except BaseException as error:  # noqa: BLE001 - the process ends here; its parent learns why from the report
        report(error)
    finally:
        _exit(status)


@dataclass
class Child:
    """A forked process that serves one request."""

    pid: int
    request: int
    answers: int
    stdout: int
    stderr: int
    reader: FrameReader
    arrived: list[tuple[int, bytes]] = field(default_factory=list)
    status: int | None = None
    """As returned by ``waitpid``; None until it has been reaped."""
    listener: int = -1
    """Gets the notices of the calls that make, delete or rename files; -1 if there are none."""

    def cpu_s(self) -> float:
        """Processor seconds used so far (0.0 if the kernel does not report it)."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return 0.0

    def kill(self) -> None:
        """Kill it. Safe as long as it has not been reaped."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether it has ended by itself: nobody else can write answers."""
        poller = select.poll()
        poller.register(self.answers, 0)  # an end is reported unasked
        return self.status is not None or bool(poller.poll(0))

    def close(self) -> None:
        """Close this end of its pipes."""
        for descriptor in (self.request, self.answers, self.stdout, self.stderr, self.listener):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def take_answers(self) -> bool:
        """Read what has arrived; False at the end of the stream. Raises :class:`FrameError`."""
        data = os.read(self.answers, _CHUNK)
        self.arrived += self.reader.feed(data)
        return bool(data)

    def wait_ready(self) -> bool:
        """Wait until the child has locked itself down and expects a request; False if it does not."""
        end = time.monotonic() + _READY_S
        while not self.arrived:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.answers], [], [], left)[0] or not self.take_answers():
                return False
        return self.arrived.pop(0)[0] == frames.READY

    def take_listener(self) -> None:
        """Take what a child has sent before it was ready. Raises :class:`OSError` if it has sent nothing."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, self.request) as connection:
            try:
                _, (self.listener,), _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_DONTWAIT)
            finally:
                connection.detach()


@dataclass
class Call:
    """A call in progress."""

    id: int
    timeout_s: float
    count: int
    child: Child
    stdout: CappedOutput
    stderr: CappedOutput
    token: bytes
    """Starts each of its answers."""
    room: int
    """Bytes that its answers may still have."""
    use: ScratchUse | None
    """What it has in its folder, if there is one."""
    started: float = 0.0
    cpu_started: float = 0.0
    index: int = 0
    look_at: float = 0.0
    """When its folder is looked at next, if it is in use."""
