"""Captured output of a child, of which the first and last bytes are kept."""

from __future__ import annotations

import os
from collections import deque

KILL_BYTES = 16 << 20
"""A call that writes more than this is killed."""
_CHUNK = 1 << 16


class CappedOutput:
    """Keeps three quarters of ``limit`` bytes from the start of a stream and one quarter from its end."""

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._head_room = limit - limit // 4
        self._tail_limit = limit // 4
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0

    def add(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        self.total += len(data)
        taken = data[: self._head_room]
        self._head_room -= len(taken)
        self._head += taken
        rest = data[len(taken) :]
        if rest:
            self._tail.append(rest)
            self._tail_size += len(rest)
        while self._tail and self._tail_size - len(self._tail[0]) >= self._tail_limit:
            self._tail_size -= len(self._tail.popleft())

    def text(self) -> str:
        """What was kept, as text; a cut is marked with the number of missing bytes."""
        tail = b"".join(self._tail)
        cut = self.total - len(self._head) - self._tail_limit
        if cut <= 0:
            return (self._head + tail).decode("utf-8", "replace")
        end = tail[len(tail) - self._tail_limit :].decode("utf-8", "replace")
        return f"{self._head.decode('utf-8', 'replace')}\n[... {cut} bytes cut ...]\n{end}"

    def drain(self, descriptor: int) -> bool:
        """Read what a non-blocking pipe holds now, up to a little over ``KILL_BYTES``; False at its end."""
        while self.total <= KILL_BYTES:
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.add(data)
            if len(data) < _CHUNK:
                return True
        return True
