"""One worker: takes requests from the trainer and runs each in a new child that is already locked down.

Statuses and times in a result come from here, never from the child; the child's answer is forwarded unread.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from functools import partial
from os import write
from typing import Any, NoReturn

from . import frames, landlock, lockdown, scratch, seccomp
from .capture import KILL_BYTES, CappedOutput
from .child import child_main
from .frames import FrameError, FrameReader
from .launch_settings import EXIT_FAILED, FIRST_UID, Settings
from .lockdown import Walls
from .process import Call, Child, run_and_exit

_SCAN_S = 0.1
"""Seconds between checks of the size of the scratch folder."""
_CHUNK = 1 << 18


class TrainerGone(Exception):  # noqa: N818 - a reason to exit quietly, not an error
    """The trainer has closed the connection."""


class Supervisor:
    """Serves one connection until it closes."""

    def __init__(self, connection: socket.socket, settings: Settings, index: int) -> None:
        self._connection = connection
        self._settings = settings
        self._reader = FrameReader(frames.MAX_REQUEST_BYTES + 4096)
        self._requests: list[tuple[int, bytes]] = []
        self._scratch = f"{settings.root}/w{index}" if settings.scratch else None
        self._walls = Walls(os.getpid(), FIRST_UID + index, lockdown.address_space())
        self._spare: Child | None = None
        self._null = os.open("/dev/null", os.O_RDONLY)

    def serve(self) -> None:
        """Handle requests one after another; returns when the trainer is gone."""
        self._prepare()
        try:
            self._spare = self._fork()
            while True:
                kind, body = self._next_request()
                if kind == frames.CALL:
                    done = self._serve_call(body)
                    del body  # the next child must not find this request in its memory
                    self._spare = self._fork()
                    self._discard(done)
        except (TrainerGone, FrameError, ConnectionError):
            pass
        finally:
            self._clean_up()

    def _prepare(self) -> None:
        if self._scratch:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._scratch, 0o700)  # noqa: PTH102
            scratch.wipe(self._scratch)
            if self._settings.on("uid"):
                os.chown(self._scratch, self._walls.uid, self._walls.uid)
        if self._settings.on("landlock"):
            rules = lockdown.landlock_rules(self._settings.read_paths, self._scratch)
            self._walls.ruleset = landlock.create_ruleset(rules)
        if self._settings.on("seccomp"):
            self._walls.system_calls = seccomp.build_here(self._settings.files)

    def _clean_up(self) -> None:
        if self._spare:
            self._spare.kill()
            self._spare.reap(0)
        if self._scratch:
            with contextlib.suppress(OSError):
                scratch.wipe(self._scratch)
                os.rmdir(self._scratch)  # noqa: PTH106

    def _receive(self) -> None:
        data = self._connection.recv(_CHUNK)
        if not data:
            raise TrainerGone
        self._requests += self._reader.feed(data)

    def _next_request(self) -> tuple[int, bytes]:
        while not self._requests:
            self._receive()
        return self._requests.pop(0)

    def _fork(self) -> Child:
        request_reader, request = os.pipe()
        answers, answers_writer = os.pipe()
        stdout, stdout_writer = os.pipe()
        stderr, stderr_writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            theirs = request_reader, answers_writer, stdout_writer, stderr_writer
            run_and_exit(partial(self._become_child, *theirs), _report_child, EXIT_FAILED)
        for descriptor in (request_reader, answers_writer, stdout_writer, stderr_writer):
            os.close(descriptor)
        os.set_blocking(stdout, False)
        os.set_blocking(stderr, False)
        return Child(pid, request, answers, stdout, stderr, FrameReader(self._settings.answer_bytes))

    def _become_child(self, request: int, answers: int, stdout: int, stderr: int) -> NoReturn:
        """Keep only what a child needs, lock down and serve one request."""
        os.setsid()
        os.dup2(self._null, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        keep = {0, 1, 2, request, answers}
        if self._walls.ruleset is not None:
            keep.add(self._walls.ruleset)
        lockdown.close_descriptors(keep)
        os.chdir(self._scratch or "/")
        lockdown.lock_down(self._settings, self._walls)
        child_main(request, answers, self._settings, self._scratch)

    def _serve_call(self, body: bytes) -> Child:
        facts, request = frames.split_facts(body)
        child, self._spare = self._spare or self._fork(), None
        if child.has_ended():  # while it waited, perhaps for lack of memory: not because of this call
            self._discard(child)
            child = self._fork()
        limit = self._settings.output_bytes
        outputs = CappedOutput(limit), CappedOutput(limit)
        token = os.urandom(frames.TOKEN_BYTES)
        call = Call(facts["id"], facts["timeout_s"], facts["count"], child, *outputs, token)
        try:
            self._execute(call, request)
        except (TrainerGone, ConnectionError, FrameError):
            self._discard(child)
            raise
        child.kill()
        return child

    def _discard(self, child: Child) -> None:
        """End a child, then remove what it left behind."""
        child.kill()
        child.reap(0)
        child.close()
        if self._scratch:
            scratch.wipe(self._scratch)

    def _execute(self, call: Call, request: bytes) -> None:
        child = call.child
        if not child.wait_ready():
            child.reap(0.5)
            failed = child.status is not None and os.waitstatus_to_exitcode(child.status) == EXIT_FAILED
            self._finish(call, "not_locked_down" if failed else "not_ready")
            return
        call.started = call.scanned = time.monotonic()
        call.cpu_started = child.cpu_s()
        try:
            view = memoryview(frames.pack(frames.CALL, call.token + request))
            while view:
                view = view[os.write(child.request, view) :]
        except BrokenPipeError:
            self._finish(call, "crashed")
            return
        poller = select.poll()
        for source in (self._connection.fileno(), child.answers, child.stdout, child.stderr):
            poller.register(source, select.POLLIN)
        status = None
        while status is None:
            status = self._step(call, poller)
        if status != "done":
            self._finish(call, status)

    def _step(self, call: Call, poller: select.poll) -> str | None:
        """Wait for the next event. Returns the status that ends the call, "done" if its last answer was forwarded."""
        child = call.child
        left = call.started + call.timeout_s - time.monotonic()
        wait = max(left, 0.0)
        if self._scratch:
            wait = min(wait, _SCAN_S)
        ready = {descriptor for descriptor, _ in poller.poll(wait * 1000 + 1 if wait else 0)}
        if self._connection.fileno() in ready and self._is_cancelled(call):
            return "cancelled"
        for descriptor, output in ((child.stdout, call.stdout), (child.stderr, call.stderr)):
            if descriptor in ready and not output.drain(descriptor):
                poller.unregister(descriptor)
            if output.total > KILL_BYTES:
                return "output_limit"
        if child.answers in ready:
            return self._pass_answers(call)
        if left <= 0:
            return "timeout"
        if self._scratch and time.monotonic() - call.scanned > _SCAN_S:
            if scratch.is_over(self._scratch, 4 * self._settings.file_bytes):
                return "disk_limit"
            call.scanned = time.monotonic()
        return None

    def _is_cancelled(self, call: Call) -> bool:
        self._receive()
        kept = []
        cancelled = False
        for kind, body in self._requests:
            if kind == frames.CANCEL:
                cancelled |= frames.split_facts(body)[0].get("id") == call.id
            else:
                kept.append((kind, body))
        self._requests = kept
        return cancelled

    def _pass_answers(self, call: Call) -> str | None:
        child = call.child
        try:
            alive = child.take_answers()
        except FrameError:
            return "damaged"
        answers, child.arrived = child.arrived, []
        out = bytearray()
        for kind, body in answers[: call.count - call.index]:
            if kind != frames.ANSWER or not body.startswith(call.token):
                return "damaged"
            last = call.index + 1 == call.count
            if last:
                # The child wrote its output before this answer, so it is in the pipes by now.
                call.stdout.drain(child.stdout)
                call.stderr.drain(child.stderr)
                child.kill()
            out += frames.pack_facts(frames.RESULT, self._facts(call, "answered", last), body[frames.TOKEN_BYTES :])
            call.index += 1
            now = time.monotonic()
            call.started, call.cpu_started = now, child.cpu_s()
        if out:
            self._connection.sendall(out)
        if call.index == call.count:
            return "done"
        return None if alive else "crashed"

    def _facts(self, call: Call, status: str, last: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "id": call.id,
            "index": call.index,
            "status": status,
            "last": last,
            "wall_s": round(time.monotonic() - call.started, 6) if call.started else 0.0,
            "cpu_s": round(max(call.child.cpu_s() - call.cpu_started, 0.0), 6),
        }
        if last:
            facts |= {"stdout": call.stdout.text(), "stderr": call.stderr.text()}
        return facts

    def _finish(self, call: Call, status: str) -> None:
        """End a call that has not been answered."""
        child = call.child
        facts = self._facts(call, status, last=True)
        if status == "crashed":
            child.reap(0.02)
        else:
            child.kill()
        call.stdout.drain(child.stdout)
        call.stderr.drain(child.stderr)
        facts |= {"stdout": call.stdout.text(), "stderr": call.stderr.text()}
        if child.status is not None:
            facts["exit"] = os.waitstatus_to_exitcode(child.status)
        self._connection.sendall(frames.pack_facts(frames.RESULT, facts, b""))


def supervisor_main(connection: socket.socket, settings: Settings, index: int) -> NoReturn:
    """Run a supervisor in this process and exit. If it fails, the trainer notices the closed connection."""
    run_and_exit(lambda: Supervisor(connection, settings, index).serve(), _report_supervisor)


def _report_child(error: BaseException) -> None:
    write(2, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:2000])


def _report_supervisor(error: BaseException) -> None:
    sys.stderr.write(f"sandbox supervisor: {error!r}\n")
