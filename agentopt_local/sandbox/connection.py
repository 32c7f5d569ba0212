"""The trainer's end of one worker's socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from agentopt_local.sandbox.zygote import frames
from agentopt_local.sandbox.zygote.frames import FrameError, FrameReader


@dataclass
class Reply:
    """One result frame: the supervisor's facts, and the child's answer, which must not be trusted."""

    facts: dict[str, Any]
    answer: bytes


@dataclass
class PendingCall:
    """The call that a worker is running."""

    id: int
    replies: list[Reply] = field(default_factory=list)
    finished: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a reply arrives, and when the call or the connection ends."""


class WorkerConnection(asyncio.Protocol):
    """Sends one call at a time and collects its replies; a lost connection ends the call."""

    def __init__(self, max_frame_bytes: int) -> None:
        self.lost = asyncio.Event()
        self._reader = FrameReader(max_frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._pending: PendingCall | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of another class

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when either end has closed."""
        self.lost.set()
        if self._pending:
            self._pending.changed.set()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio. An invalid frame closes the connection: the supervisor must be damaged."""
        try:
            for kind, body in self._reader.feed(data):
                self._take(kind, body)
        except FrameError:
            self.abort()

    def _take(self, kind: int, body: bytes) -> None:
        pending = self._pending
        if kind != frames.RESULT or pending is None:
            raise FrameError("an unexpected frame")
        facts, answer = frames.split_facts(body)
        if facts.get("id") != pending.id or facts.get("index") != len(pending.replies):
            raise FrameError("a result of another call")
        pending.replies.append(Reply(facts, answer))
        if facts.get("last"):
            pending.finished = True
            self._pending = None
        pending.changed.set()

    def begin(self, call_id: int, facts: dict[str, Any], request: bytes) -> PendingCall:
        """Send a request. The worker must be idle."""
        assert self._pending is None
        assert self._transport is not None
        self._pending = PendingCall(call_id)
        self._transport.write(frames.pack_facts(frames.CALL, {"id": call_id, **facts}, request))
        return self._pending

    async def finish(self, pending: PendingCall, patience_s: float) -> None:
        """Wait until the call has ended or the connection is lost.

        A worker that is silent for ``patience_s`` seconds counts as lost, and the connection is closed.
        """
        while not pending.finished and not self.lost.is_set():
            pending.changed.clear()
            waiter = asyncio.ensure_future(pending.changed.wait())
            try:
                # asyncio.wait does not discard a reply that arrives just as the wait ends.
                done, _ = await asyncio.wait({waiter}, timeout=patience_s)
            finally:
                waiter.cancel()
            if not done and not pending.changed.is_set():
                self.abort()
                return

    @property
    def pending(self) -> PendingCall | None:
        """The call in progress."""
        return self._pending

    def cancel(self) -> None:
        """Ask the supervisor to kill the call in progress."""
        if self._pending and self._transport:
            self._transport.write(frames.pack_facts(frames.CANCEL, {"id": self._pending.id}, b""))

    def abort(self) -> None:
        """Close immediately; the supervisor then kills its child and exits."""
        self.lost.set()
        if self._pending:
            self._pending.changed.set()
            self._pending = None
        if self._transport:
            self._transport.abort()
