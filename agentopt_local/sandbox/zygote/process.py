"""A child process, and the call that it serves, as their supervisor holds them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass, field

from . import frames
from .frames import FrameReader
from .output import CappedOutput

_READY_S = 20.0
_CHUNK = 1 << 18


@dataclass
class Child:
    """A forked process that waits for its one request."""

    pid: int
    request: int
    answers: int
    stdout: int
    stderr: int
    reader: FrameReader
    arrived: list[tuple[int, bytes]] = field(default_factory=list)
    status: int | None = None
    """What ``waitpid`` said; None while it lives."""

    def cpu_s(self) -> float:
        """Processor seconds used so far (0.0 where the kernel does not tell)."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return 0.0

    def kill(self) -> None:
        """End it at once. Safe while it is not reaped."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether it has died by itself."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def reap(self, wait_s: float) -> None:
        """Wait for the end by itself for ``wait_s`` seconds, then force it."""
        end = time.monotonic() + wait_s
        while self.status is None and time.monotonic() < end:
            if not self.has_ended():
                time.sleep(0.001)
        if self.status is None:
            self.kill()
            self.status = os.waitpid(self.pid, 0)[1]

    def close(self) -> None:
        """Close this side of its pipes."""
        for descriptor in (self.request, self.answers, self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def take_answers(self) -> bool:
        """Read what has arrived; False at the end of the stream. Raises :class:`FrameError`."""
        data = os.read(self.answers, _CHUNK)
        self.arrived += self.reader.feed(data)
        return bool(data)

    def wait_ready(self) -> bool:
        """Whether the child has locked itself down and waits for a request."""
        end = time.monotonic() + _READY_S
        while not self.arrived:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.answers], [], [], left)[0] or not self.take_answers():
                return False
        return self.arrived.pop(0)[0] == frames.READY


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
    """What its answers start with."""
    started: float = 0.0
    cpu_started: float = 0.0
    index: int = 0
    scanned: float = 0.0
