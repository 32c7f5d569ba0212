"""A running sandbox under random input: bytes on every descriptor of a child, and values there and back."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentopt_local.sandbox import ForkServerSandbox, SandboxLimits, open_sandbox

REAL = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SPRAY = """
import os
def spray(pieces, then):
    for piece in pieces:
        for descriptor in range(3, 16):
            try:
                os.write(descriptor, bytes.fromhex(piece))
            except OSError:
                pass
    if then == "die":
        os._exit(0)
    return "honest"
"""
ECHO = "def echo(value):\n    return value\n"
REBUILD = """
import datetime, uuid
from decimal import Decimal
from fractions import Fraction
def rebuild(text):
    return eval(text)
"""


class Loop:
    """A sandbox with an event loop that lives for the whole module."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        limits = SandboxLimits(timeout_s=60.0, memory_bytes=128 << 20)
        self.sandbox: ForkServerSandbox = open_sandbox(limits=limits, workers=1)
        self.runner.run(self.sandbox.start())

    def call(self, source: str, name: str, arguments: dict[str, Any]) -> Any:
        return self.runner.run(self.sandbox.call(source, name, arguments))

    def call_many(self, source: str, name: str, arguments: list[dict[str, Any]]) -> Any:
        return self.runner.run(self.sandbox.call_many(source, name, arguments))

    def close(self) -> None:
        self.runner.run(self.sandbox.aclose())
        self.runner.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def frame(kind: int, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + bytes([kind]) + body


answers = st.fixed_dictionaries(
    {"status": st.sampled_from(["ok", "exception", "memory", "answered", "cancelled"]), "value": st.text(max_size=5)}
).map(lambda value: json.dumps(value).encode())
pieces = st.binary(max_size=200) | st.builds(
    frame, st.integers(0, 12), st.binary(max_size=40) | answers | answers.map(lambda body: bytes(16) + body)
)


@REAL
@given(st.lists(pieces, min_size=1, max_size=3), st.sampled_from(["return", "die"]))
def test_bytes_on_every_descriptor_are_no_answer(loop: Loop, sprayed: list[bytes], then: str) -> None:
    execution = loop.call(SPRAY, "spray", {"pieces": [piece.hex() for piece in sprayed], "then": then})
    if any(sprayed):
        assert (execution.ok, execution.value, execution.status) == (False, None, "crashed")
    else:
        assert execution.value == ("honest" if then == "return" else None)
    following = loop.call(ECHO, "echo", {"value": 1})
    assert (following.value, following.stdout, following.stderr) == (1, "", "")


texts = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(10**4000), 10**4000)
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@REAL
@given(st.lists(json_values, min_size=1, max_size=20))
def test_json_goes_through_unchanged(loop: Loop, sent: list[Any]) -> None:
    executions = loop.call_many(ECHO, "echo", [{"value": value} for value in sent])
    assert [execution.value for execution in executions] == sent
    assert [type(execution.value) for execution in executions] == [type(value) for value in sent]


@REAL
@given(st.lists(st.fractions() | st.decimals() | st.complex_numbers() | st.floats(), min_size=1, max_size=20))
def test_numbers_take_their_documented_form(loop: Loop, numbers: list[Any]) -> None:
    def expected(number: Any) -> Any:
        if isinstance(number, Fraction):
            return number.numerator if number.denominator == 1 else str(number)
        if isinstance(number, float):
            named = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
            return number if math.isfinite(number) else named
        return str(number)

    def written(number: Any) -> str:
        return f"float({str(number)!r})" if isinstance(number, float) else f"{type(number).__name__}({str(number)!r})"

    executions = loop.call_many(REBUILD, "rebuild", [{"text": written(number)} for number in numbers])
    assert [execution.value for execution in executions] == [expected(number) for number in numbers]
