"""The process that calls are forked from. It never holds anything of a call.

A forked process has a copy of its parent's memory, freed parts included. So the supervisor, through which requests and
results pass, forks this template before it reads the first request, and forks no call itself. It makes the pipes of a
call and sends the ends that the call needs; the one for the request is empty until the template has closed its copy.
Besides those, only process ids, waiting times and exit statuses pass between the two. The request goes through a
socket, on which a child first sends its supervisor the listener for notices.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from functools import partial
from os import write
from typing import NoReturn

from . import landlock, lockdown, native, seccomp
from .child import child_main
from .frames import FrameReader
from .launch_settings import EXIT_FAILED, Settings
from .lockdown import Walls
from .notices import Reporting
from .process import Child, run_and_exit

_REQUEST = struct.Struct("=id")  # the process to end (0: none), how many seconds it may take to end by itself
_REPLY = struct.Struct("=ii")  # the process forked if descriptors came with the request (0: none), the other's status
_PIPES = 4

Scratch = tuple[str, int]
"""The path and the descriptor of the folder that calls may write to."""


class TemplateLink:
    """The supervisor's end. A template that has died is a :class:`ConnectionError`."""

    def __init__(self, settings: Settings, uid: int, scratch: Scratch | None, connection: socket.socket) -> None:
        """Fork the template, which closes its copy of the ``connection``. Its calls run as ``uid``, if they may."""
        self._answer_bytes = settings.answer_bytes
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            connection.close()
            if settings.on("parent_death_signal"):
                native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != supervisor:
                    os._exit(1)
            run_and_exit(lambda: _Template(theirs, settings, uid, scratch).serve(), _report)
        theirs.close()

    def fileno(self) -> int:
        """Readable between requests only if the template has died."""
        return self._control.fileno()

    def fork(self, replaced: Child | None = None) -> Child:
        """A new child, and the end of the one that it replaces."""
        request, request_reader = (end.detach() for end in socket.socketpair())
        answers, answers_writer = os.pipe()
        stdout, stdout_writer = os.pipe()
        stderr, stderr_writer = os.pipe()
        theirs = request_reader, answers_writer, stdout_writer, stderr_writer
        try:
            pid = self._ask(replaced, 0.0, theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        os.set_blocking(stdout, False)
        os.set_blocking(stderr, False)
        return Child(pid, request, answers, stdout, stderr, FrameReader(self._answer_bytes))

    def reap(self, child: Child, wait_s: float) -> None:
        """Give a child ``wait_s`` seconds to end by itself, then kill it, and learn its status."""
        if child.status is None:
            self._ask(child, wait_s, ())

    def _ask(self, ended: Child | None, wait_s: float, descriptors: tuple[int, ...]) -> int:
        old = ended.pid if ended is not None and ended.status is None else 0
        if descriptors:
            socket.send_fds(self._control, [_REQUEST.pack(old, wait_s)], descriptors)
        else:
            self._control.send(_REQUEST.pack(old, wait_s))
        reply = self._control.recv(_REPLY.size)
        if not reply:
            raise ConnectionError("the template has ended")
        pid, status = _REPLY.unpack(reply)
        if old and ended is not None:
            ended.status = status
        return int(pid)

    def close(self) -> None:
        """Wait until the template and its children have ended."""
        self._control.close()
        os.waitpid(self._pid, 0)


class _Template:
    """Forks and reaps children on request."""

    def __init__(self, control: socket.socket, settings: Settings, uid: int, scratch: Scratch | None) -> None:
        self._control = control
        self._settings = settings
        self._scratch = scratch
        self._walls = Walls(os.getpid(), uid, lockdown.address_space())
        self._children: set[int] = set()
        if settings.on("landlock"):
            rules = lockdown.landlock_rules(settings.read_paths, scratch[0] if scratch else None)
            self._walls.ruleset = landlock.create_ruleset(rules)
        if settings.on("seccomp"):
            self._walls.system_calls = seccomp.build_here(settings.files)
        if settings.notices:
            self._walls.notices = Reporting()

    def serve(self) -> None:
        """Handle requests until the supervisor is gone, then end the children that are left."""
        try:
            while True:
                message, descriptors, _, _ = socket.recv_fds(self._control, _REQUEST.size, _PIPES)
                if not message:
                    break
                old, wait_s = _REQUEST.unpack(message)
                pid = self._fork(descriptors) if descriptors else 0
                status = self._end(old, wait_s) if old in self._children else 0
                self._control.send(_REPLY.pack(pid, status))
        except ConnectionError:
            pass
        for pid in list(self._children):
            self._end(pid, 0.0)

    def _fork(self, descriptors: list[int]) -> int:
        pid = os.fork()
        if pid == 0:
            run_and_exit(partial(self._become_child, *descriptors), _report, EXIT_FAILED)
        for descriptor in descriptors:
            os.close(descriptor)
        self._children.add(pid)
        return pid

    def _become_child(self, request: int, answers: int, stdout: int, stderr: int) -> NoReturn:
        """Keep only what a child needs, lock down and serve one request."""
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)  # opened anew: what a call does to its flags ends with it
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        if self._scratch is None:
            os.chdir("/")
        else:
            os.fchdir(self._scratch[1])
        keep = {0, 1, 2, request, answers}
        if self._walls.ruleset is not None:
            keep.add(self._walls.ruleset)
        lockdown.close_descriptors(keep)
        lockdown.lock_down(self._settings, self._walls, request)
        child_main(request, answers, self._settings, self._scratch[0] if self._scratch else None)

    def _end(self, pid: int, wait_s: float) -> int:
        """The wait status of a child that gets ``wait_s`` seconds to end by itself."""
        end = time.monotonic() + wait_s
        options = os.WNOHANG
        while True:
            ended, status = os.waitpid(pid, options)
            if ended:
                self._children.discard(pid)
                return status
            if time.monotonic() < end:
                time.sleep(0.001)
            else:
                os.kill(pid, signal.SIGKILL)
                options = 0


def _report(error: BaseException) -> None:
    write(2, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:2000])
