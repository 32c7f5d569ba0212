"""The frames sent over the sandbox's sockets and pipes.

A frame is the length of its body (4 bytes, big-endian), its kind (1 byte) and the body. A body that carries facts as
well as a payload starts with the length of the facts (4 bytes) and the facts as JSON. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import struct
from typing import Any

HEADER = struct.Struct(">IB")
_META = struct.Struct(">I")

CONFIG = 1  # trainer -> launcher: JSON settings
HELLO = 2  # launcher -> trainer: JSON layers and versions
FAILED = 3  # launcher -> trainer: why it could not start
SPAWN = 4  # trainer -> launcher: JSON index, with the supervisor's socket attached
SPAWNED = 5  # launcher -> trainer: JSON process id
CALL = 6  # trainer -> supervisor: facts {id, timeout_s, count, room} and the child's request
CANCEL = 7  # trainer -> supervisor: facts {id}
RESULT = 8  # supervisor -> trainer: facts {id, index, last, status, ...} and the child's answer
READY = 9  # child -> supervisor: locked down
ANSWER = 10  # child -> supervisor: the call's token, then JSON that is forwarded unread

TOKEN_BYTES = 16
"""Length of the random token that comes with a request and starts each of its answers. It keeps whatever code writes to
random descriptors from counting as an answer. Code that searches its process can find it, but a function can choose
its own result anyway."""

MAX_REQUEST_BYTES = 8 << 20


class FrameError(ValueError):
    """Malformed bytes, or a frame over its limit."""


def pack(kind: int, body: bytes = b"") -> bytes:
    """One frame."""
    return HEADER.pack(len(body), kind) + body


def pack_json(kind: int, value: Any) -> bytes:
    """One frame with a JSON body."""
    return pack(kind, json.dumps(value).encode())


def pack_facts(kind: int, facts: dict[str, Any], payload: bytes) -> bytes:
    """One frame with JSON facts before its payload."""
    head = json.dumps(facts).encode()
    return b"".join((HEADER.pack(_META.size + len(head) + len(payload), kind), _META.pack(len(head)), head, payload))


def split_facts(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Undo :func:`pack_facts`. Raises :class:`FrameError`."""
    if len(body) < _META.size:
        raise FrameError("a frame is too short for its facts")
    (length,) = _META.unpack_from(body)
    if length > len(body) - _META.size:
        raise FrameError("the facts are longer than their frame")
    try:
        facts = json.loads(body[_META.size : _META.size + length])
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the facts are not JSON: {error}") from None
    if not isinstance(facts, dict):
        raise FrameError("the facts are not a JSON object")
    return facts, body[_META.size + length :]


class FrameReader:
    """Splits a stream of bytes into frames; never holds more than one frame of ``max_bytes`` and one read."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Add ``data`` and return the frames that it completes, as (kind, body). Raises :class:`FrameError`."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, kind = HEADER.unpack_from(self._buffer, start)
            if length > self.max_bytes:
                raise FrameError(f"a frame of {length} bytes is over the limit of {self.max_bytes}")
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._buffer)
