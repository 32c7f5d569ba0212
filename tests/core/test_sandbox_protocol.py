"""Frames, answers and captured output cope with any bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentopt_local.sandbox import Execution, SandboxLimits
from agentopt_local.sandbox.connection import Reply, WorkerConnection
from agentopt_local.sandbox.decode import AnswerError, Room, parse_answer, to_execution
from agentopt_local.sandbox.zygote import frames
from agentopt_local.sandbox.zygote.capture import CappedOutput
from agentopt_local.sandbox.zygote.frames import FrameError, FrameReader

LIMITS = SandboxLimits()
FACTS = {
    "id": 1,
    "index": 0,
    "status": "answered",
    "last": True,
    "wall_s": 0.1,
    "cpu_s": 0.1,
    "stdout": "",
    "stderr": "",
}


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300))), st.lists(st.integers(0, 50)))
def test_frames_survive_any_cutting(sent: list[tuple[int, bytes]], sizes: list[int]) -> None:
    reader = FrameReader(1000)
    stream = b"".join(frames.pack(kind, body) for kind, body in sent)
    got = [frame for piece in cut(stream, sizes) for frame in reader.feed(piece)]
    assert got == sent
    assert reader.pending == 0


@given(st.lists(st.binary(max_size=200)))
def test_any_bytes_give_frames_or_a_frame_error(pieces: list[bytes]) -> None:
    reader = FrameReader(100)
    try:
        for piece in pieces:
            for _, body in reader.feed(piece):
                assert len(body) <= 100
            assert reader.pending <= 105
    except FrameError:
        pass


@given(st.binary(max_size=100))
def test_any_body_gives_facts_or_a_frame_error(body: bytes) -> None:
    try:
        facts, payload = frames.split_facts(body)
    except FrameError:
        return
    assert isinstance(facts, dict)
    assert body.endswith(payload)


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.binary(max_size=100))
def test_facts_come_back(facts: dict[str, Any], payload: bytes) -> None:
    body = frames.pack_facts(frames.RESULT, facts, payload)[frames.HEADER.size :]
    assert frames.split_facts(body) == (facts, payload)


BEYOND = (
    *(
        b"1e999",
        b"-1e999",
        b"[1e309]",
        b'{"a": 1E+400}',
        b"1" * 400 + b".0",
        b"1" * 400 + b"e0",
        b"0." + b"1" * 9 + b"e+999",
    ),
    *(b"-Infinity", b"[NaN]"),
)
"""Numbers that read as infinity or as none (row 13)."""


def answered(answer: bytes, limits: SandboxLimits = LIMITS, *, batch: bool = False) -> Execution:
    return to_execution(Reply(dict(FACTS), answer), limits, 5.0, batch=batch)


@pytest.mark.parametrize(
    "number", [b"1e308", b"-1.7976931348623157e308", b"1e-999", b"0e999", b"1" * 300 + b".5", b"0.1"]
)
def test_numbers_within_the_range_are_kept(number: bytes) -> None:
    assert parse_answer(b'{"value": ' + number + b"}") == {"value": float(number)}


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (b'"' + b"x" * 998 + b'"', True),
        (b'"' + b"x" * 999 + b'"', False),
        (b" " * 5000 + b"1", True),  # what counts is what is kept
        (b"[" + b"1," * 600 + b"1]", False),
        ('"' + "é" * 499 + '"', True),
        ('"' + "é" * 500 + '"', False),
        (b'"' + b"\\u00e9" * 499 + b'"', True),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_the_size_of_a_forged_result_is_limited(value: bytes | str, fits: bool, batch: bool) -> None:
    """The child program limits what it writes, but code can write frames itself (row 13)."""
    text = value.encode() if isinstance(value, str) else value
    execution = answered(b'{"status": "ok", "value": ' + text + b"}", SandboxLimits(result_bytes=1000), batch=batch)
    assert (execution.ok, execution.status) == (fits, "ok" if fits else "result_too_large")
    assert fits or (execution.value is None and "1000 bytes" in (execution.error or ""))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_the_size_of_forged_output_is_limited(name: str) -> None:
    limits = SandboxLimits(output_bytes=300)
    for size, status in ((300, "ok"), (5000, "crashed")):
        answer = json.dumps({"status": "ok", "value": 1, name: "x" * size}).encode()
        assert answered(answer, limits, batch=True).status == status


def test_the_answers_of_a_batch_are_limited_together() -> None:
    room = Room(1000)
    facts = dict(FACTS)
    assert room.takes(Reply(facts, b"x" * 600))
    assert room.takes(Reply(facts | {"stdout": "x" * 100}, b"x" * 300))
    assert not room.takes(Reply(facts, b"x"))
    assert not room.takes(Reply(facts, b""))
    assert not Room(1000).takes(Reply(facts | {"status": "full"}, b""))
    assert room.refusal.status == "result_too_large"


@pytest.mark.parametrize("field", ["timeout_s", "memory_bytes", "output_bytes", "result_bytes", "file_bytes"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf, -1, 1e300, 2**70, "many", None])
def test_limits_are_finite(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        SandboxLimits(**{field: value})


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
answers = (
    st.binary(max_size=200)
    | json_like.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"status": st.sampled_from(["ok", "exception", "memory", "timeout", "cancelled"]) | json_like},
        optional={"value": json_like, "error": json_like, "stdout": json_like, "stderr": json_like},
    ).map(lambda value: json.dumps(value).encode())
)


@given(answers, st.booleans())
def test_any_answer_gives_an_execution(answer: bytes, batch: bool) -> None:
    execution = to_execution(Reply(dict(FACTS), answer), LIMITS, 5.0, batch=batch)
    assert execution.status in ("ok", "exception", "memory", "result_too_large", "crashed")
    assert execution.ok == (execution.status == "ok")
    assert (execution.error is None) == execution.ok
    execution.model_dump_json()  # no NaN and no surrogate came through
    json.dumps(execution.value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{",
        b'{"value": NaN}',
        b'{"value": Infinity}',
        b'{"value": ' + b"[" * 100_000,
        b'{"value": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"value": ' + b"1" * 5000 + b"}",
        b'{"value": "\xed\xa0\x80"}',
        *(b'{"value": ' + number + b"}" for number in BEYOND),
    ],
)
def test_bad_answers_are_refused(answer: bytes) -> None:
    with pytest.raises(AnswerError):
        parse_answer(answer)


def test_an_escaped_surrogate_is_replaced() -> None:
    assert parse_answer(b'{"value": "a\\ud800b\\n"}') == {"value": "a?b\n"}


class Transport:
    """Records what is written; enough of asyncio's for a connection."""

    def __init__(self) -> None:
        self.aborted = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def connect() -> tuple[WorkerConnection, Transport]:
    connection = WorkerConnection(1 << 16)
    transport = Transport()
    connection._transport = transport  # type: ignore[assignment]
    return connection, transport


@given(st.lists(st.binary(max_size=300)))
def test_a_connection_with_a_mad_worker_closes(pieces: list[bytes]) -> None:
    connection, transport = connect()
    pending = connection.begin(7, {}, b"")
    for piece in pieces:
        connection.data_received(piece)
    assert pending.replies == []
    assert transport.aborted == connection.lost.is_set()


@pytest.mark.parametrize("facts", [{"id": 8, "index": 0}, {"id": 7, "index": 1}, {}, {"id": "7", "index": 0}])
def test_a_result_of_another_call_closes_the_connection(facts: dict[str, Any]) -> None:
    connection, transport = connect()
    pending = connection.begin(7, {}, b"")
    connection.data_received(frames.pack_facts(frames.RESULT, facts, b""))
    assert transport.aborted
    assert pending.replies == []


def test_a_result_after_the_last_closes_the_connection() -> None:
    connection, transport = connect()
    pending = connection.begin(7, {}, b"")
    reply = frames.pack_facts(frames.RESULT, {"id": 7, "index": 0, "last": True}, b"x")
    connection.data_received(reply)
    assert pending.finished
    assert len(pending.replies) == 1
    connection.data_received(reply)
    assert transport.aborted
    assert len(pending.replies) == 1


@given(st.lists(st.binary(max_size=60)), st.integers(4, 100))
def test_output_keeps_its_ends(pieces: list[bytes], limit: int) -> None:
    output = CappedOutput(limit)
    for piece in pieces:
        output.add(piece)
    whole = b"".join(pieces)
    if len(whole) <= limit:
        assert output.text() == whole.decode("utf-8", "replace")
        return
    tail = limit // 4
    head = limit - tail
    cut_bytes = len(whole) - limit
    expected = whole[:head].decode("utf-8", "replace")
    assert output.text() == (
        f"{expected}\n[... {cut_bytes} bytes cut ...]\n{whole[len(whole) - tail :].decode('utf-8', 'replace')}"
    )
