"""What the reply parser reads as a call, and how arguments are checked."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt_local.chat import ToolSpec
from agentopt_local.tool_calls import check_arguments, parse_reply

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "s": {"type": "string", "maxLength": 10},
        "xs": {"type": "array", "items": {"type": "number"}},
        "mode": {"enum": ["fast", "slow"]},
    },
    "required": ["a"],
}
TOOLS = [ToolSpec(name=name, description=f"Does {name}.", parameters=PARAMETERS) for name in ("f", "f2", "gcd")]


def hermes(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


ONE = '{"name": "f", "arguments": {"a": 1}}'
TWO = '{"name": "gcd", "parameters": {"a": 2}}'


@pytest.mark.parametrize(
    ("text", "names", "content"),
    [
        (hermes(ONE), ["f"], ""),
        ("I think.\n" + hermes(ONE) + "\nand then", ["f"], "I think."),
        (hermes(ONE) + "\n" + hermes(TWO), ["f", "gcd"], ""),
        (f"<tool_call>{ONE}", ["f"], ""),
        (f"<tool_call>{ONE}\n<tool_call>{TWO}", ["f", "gcd"], ""),
        (hermes(f"```json\n{ONE}\n```"), ["f"], ""),
        (hermes('{"name": "nope", "arguments": {}}'), ["nope"], ""),
        (hermes('{"name": "f", "arguments": "{\\"a\\": 1}"}'), ["f"], ""),
        (hermes('{"name": "f", "arguments": {"s": "a </tool_call> ``` b"}}'), ["f"], ""),
        (hermes('{"name": "f", "arguments": {"s": "raw\nline"}}'), ["f"], ""),
        (f"We call:\n```json\n{ONE}\n```\n", ["f"], "We call:"),
        (f"```json\n{ONE}", ["f"], ""),
        (f"```\n{TWO}\n```", ["gcd"], ""),
        (f"```json\n[{ONE}, {TWO}]\n```", ["f", "gcd"], ""),
        ('```json\n{"type": "function", "function": ' + ONE + "}\n```", ["f"], ""),
        ('```json\n{"function": "f", "arguments": {"a": 1}}\n```', ["f"], ""),
        (ONE, ["f"], ""),
        (f"<|python_tag|>{TWO}", ["gcd"], "<|python_tag|>"),
        (f"{TWO}; {ONE}", ["gcd", "f"], ""),
        (f"Action: {ONE}", ["f"], "Action:"),
        (f"```python\nprint(1)\n```\n{hermes(ONE)}", ["f"], "```python\nprint(1)\n```"),
    ],
)
def test_a_call_is_never_lost(text: str, names: list[str], content: str) -> None:
    message = parse_reply(text, TOOLS)
    assert [call.name for call in message.tool_calls] == names
    assert message.content == content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        f"```python\n{ONE}\n```",
        f"```python\nx = '''\n{hermes(ONE)}\n'''\n```",
        f"```py\n{ONE}",
        '```json\n{"name": "nope", "arguments": {}}\n```',
        '```json\n{"name": "f"}\n```',
        '{"name": "Bob", "arguments": {}}',
        f"You could write {ONE} but that is wrong.",
        f"Use `{ONE}`",
        hermes('{"name": "f", "arguments": {"a": 1}'),
        hermes("{'name': 'f'}"),
        hermes('{"name": "f", "arguments": {"a": NaN}}'),
        hermes('{"name": "f", "arguments": {"a": 1e999}}'),
        hermes('{"name": "f", "arguments": {"s": "\\ud800"}}'),
        hermes('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}"),
        hermes("[" * 100_000),
        hermes('{"name": 3, "arguments": {}}'),
        hermes('{"name": "f", "arguments": [1]}'),
        "[]",
        "[1]",
    ],
)
def test_text_never_becomes_a_call(text: str) -> None:
    message = parse_reply(text, TOOLS)
    assert message.tool_calls == ()
    assert message.content == text.strip()


def test_without_tools_nothing_is_a_call() -> None:
    assert parse_reply(hermes(ONE), []).tool_calls == ()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([ONE, TWO, "<tool_call>", "</tool_call>", "```json\n", "```", "\n", "{", '"', "a ", "\ud800"])
    )
)
def test_any_text_parses(pieces: list[str]) -> None:
    message = parse_reply("".join(pieces), TOOLS)
    assert {call.name for call in message.tool_calls} <= {"f", "gcd"}
    json.dumps(message.model_dump(), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "piece", ["<tool_call>", "{", '{"a":\n', "```json\n", "```", '\n{"name": "f", "arguments": {}} x', " {"]
)
def test_long_replies_parse_in_time(piece: str) -> None:
    text = piece * (30_000 // len(piece))
    started = time.perf_counter()
    parse_reply(text, TOOLS)
    assert time.perf_counter() - started < 3.0, "usually below 0.2 s"


def test_arguments_are_judged_in_words() -> None:
    tool = TOOLS[0]
    assert check_arguments(tool, {"a": 1, "xs": [1, 2.5]}) is None
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "'a' is a required property"),
        ({"a": "1"}, "argument a: '1' is not of type 'integer'"),
        ({"a": True}, "argument a: True is not of type 'integer'"),
        ({"a": 1, "xs": [1, "b"]}, "argument xs[1]: 'b' is not of type 'number'"),
        ({"a": 1, "zz": 2}, "no such argument: zz"),
        ({"a": "x" * 5000}, "..."),
    ]
    for arguments, words in cases:
        wrong = check_arguments(tool, arguments)
        assert wrong is not None
        assert wrong.startswith("f: ")
        assert words in wrong
        assert len(wrong) < 300
