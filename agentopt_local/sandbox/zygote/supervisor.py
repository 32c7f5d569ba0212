"""One worker: takes requests from the trainer and runs each in a new child that is already locked down.

Statuses and times in a result come from here, never from the child; the child's answer is forwarded unread. Requests
and results pass through this process, so no call is forked from it (``template.py``).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from typing import Any, NoReturn

from . import frames, notices, removal
from .capture import KILL_BYTES, CappedOutput
from .frames import FrameError, FrameReader
from .launch_settings import EXIT_FAILED, WORKER_USERS, Settings, own_users
from .process import Call, Child, run_and_exit
from .scratch import ScratchUse
from .template import TemplateLink

_SCAN_S = 0.01
"""Seconds between checks of the size of a scratch folder that is in use; longer if a check takes long itself."""
_MAX_WAIT_S = 1e6
"""The kernel counts the milliseconds that it waits in 31 bits."""
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
        self._scratch = scratch_path(settings, index, os.getpid())
        self._folder = -1
        self._owners = own_users()
        uid = WORKER_USERS[index % len(WORKER_USERS)]
        if self._scratch:
            os.mkdir(self._scratch, 0o700)  # noqa: PTH102
            self._folder = removal.open_folder(self._scratch, owners=self._owners)
            if settings.on("uid"):
                os.chown(self._folder, uid, uid)
        # Before the first request is read: what is forked later has never held one.
        scratch_folder = (self._scratch, self._folder) if self._scratch else None
        self._template = TemplateLink(settings, uid, scratch_folder, connection)
        self._spare: Child | None = None
        self._idle = select.poll()
        self._idle.register(connection.fileno(), select.POLLIN)
        self._idle.register(self._template.fileno(), select.POLLIN)

    def serve(self) -> None:
        """Handle requests one after another; returns when the trainer or the template is gone."""
        try:
            self._spare = self._template.fork()
            while True:
                kind, body = self._next_request()
                if kind == frames.CALL:
                    done = self._serve_call(body)
                    self._spare = self._template.fork(done)
                    self._discard(done)
        except (TrainerGone, FrameError, ConnectionError):
            pass
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        self._template.close()
        if self._scratch:
            with contextlib.suppress(OSError):
                removal.remove(self._scratch, self._owners)

    def _receive(self) -> None:
        data = self._connection.recv(_CHUNK)
        if not data:
            raise TrainerGone
        self._requests += self._reader.feed(data)

    def _next_request(self) -> tuple[int, bytes]:
        while not self._requests:
            if self._template.fileno() in (descriptor for descriptor, _ in self._idle.poll()):
                raise ConnectionError("the template has ended")
            self._receive()
        return self._requests.pop(0)

    def _serve_call(self, body: bytes) -> Child:
        facts, request = frames.split_facts(body)
        child, self._spare = self._spare or self._template.fork(), None
        if child.has_ended():  # while it waited, perhaps for lack of memory: not because of this call
            self._discard(child)
            child = self._template.fork()
        limit = self._settings.output_bytes
        outputs = CappedOutput(limit), CappedOutput(limit)
        token = os.urandom(frames.TOKEN_BYTES)
        use = ScratchUse(self._scratch, 4 * self._settings.file_bytes) if self._scratch else None
        room = max(facts["room"], self._settings.answer_bytes)
        call = Call(facts["id"], facts["timeout_s"], facts["count"], child, *outputs, token, room, use)
        try:
            self._execute(call, request)
        except (TrainerGone, ConnectionError, FrameError):
            child.kill()
            raise
        finally:
            if use is not None:
                use.close()
        child.kill()
        return child

    def _discard(self, child: Child) -> None:
        """End a child if it has not ended, then remove what it left behind."""
        self._template.reap(child, 0.0)
        child.close()
        if self._scratch:
            removal.empty(self._folder, self._owners)

    def _execute(self, call: Call, request: bytes) -> None:
        child = call.child
        if not child.wait_ready():
            self._template.reap(child, 0.5)
            failed = child.status is not None and os.waitstatus_to_exitcode(child.status) == EXIT_FAILED
            self._finish(call, "not_locked_down" if failed else "not_ready")
            return
        if self._settings.notices:
            child.take_listener()
        call.started = call.look_at = time.monotonic()
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
        if child.listener >= 0:
            poller.register(child.listener, select.POLLIN)
        status = None
        while status is None:
            status = self._step(call, poller)
        if status != "done":
            self._finish(call, status)

    def _step(self, call: Call, poller: select.poll) -> str | None:
        """Wait for the next event. Returns the status that ends the call, "done" if its last answer was forwarded."""
        child = call.child
        left = call.started + call.timeout_s - time.monotonic()
        wait = min(max(left, 0.0), _MAX_WAIT_S)
        watched = call.use is not None and (call.use.begun or child.listener < 0)
        if watched:
            wait = min(wait, max(call.look_at - time.monotonic(), 0.0))
        ready = dict(poller.poll(wait * 1000 + 1 if wait else 0))
        if self._connection.fileno() in ready and self._is_cancelled(call):
            return "cancelled"
        for descriptor, output in ((child.stdout, call.stdout), (child.stderr, call.stderr)):
            if descriptor in ready and not output.drain(descriptor):
                poller.unregister(descriptor)
            if output.total > KILL_BYTES:
                return "output_limit"
        if child.listener in ready and not self._agrees(call, poller, ready[child.listener]):
            return "disk_limit"
        if child.answers in ready:
            return self._pass_answers(call)
        if left <= 0:
            return "timeout"
        return "disk_limit" if watched and self._uses_too_much(call) else None

    def _uses_too_much(self, call: Call) -> bool:
        """Whether the call is found to have too much in its folder, if it is time to look."""
        now = time.monotonic()
        if call.use is None or now < call.look_at:
            return False
        over = call.use.is_over()
        end = time.monotonic()
        call.look_at = end + max(_SCAN_S, end - now)
        return over

    def _agrees(self, call: Call, poller: select.poll, events: int) -> bool:
        """Answer the notice of a call that makes, deletes or renames a file; False if the limit is reached."""
        listener, use = call.child.listener, call.use
        if not events & select.POLLIN:  # the process has ended
            poller.unregister(listener)
            return True
        notice = notices.receive(listener)
        if notice is None or use is None:
            return True
        over = use.before_removing() if notice.removes else use.before_making()
        if over or self._uses_too_much(call):
            return False
        notices.agree(listener, notice)
        return True

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
            call.room -= len(body)
            if call.room < 0:
                break
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
        if call.room < 0:
            return "full"
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
            self._template.reap(child, 0.02)
        else:
            child.kill()
        call.stdout.drain(child.stdout)
        call.stderr.drain(child.stderr)
        facts |= {"stdout": call.stdout.text(), "stderr": call.stderr.text()}
        if child.status is not None:
            facts["exit"] = os.waitstatus_to_exitcode(child.status)
        self._connection.sendall(frames.pack_facts(frames.RESULT, facts, b""))


def scratch_path(settings: Settings, index: int, pid: int) -> str | None:
    """The folder of the calls of one supervisor, not shared with calls of an earlier one that are still dying."""
    return f"{settings.root}/w{index}-{pid}" if settings.scratch else None


def supervisor_main(connection: socket.socket, settings: Settings, index: int) -> NoReturn:
    """Run a supervisor in this process and exit. If it fails, the trainer notices the closed connection."""
    run_and_exit(lambda: Supervisor(connection, settings, index).serve(), _report_supervisor)


def _report_supervisor(error: BaseException) -> None:
    sys.stderr.write(f"sandbox supervisor: {error!r}\n")
