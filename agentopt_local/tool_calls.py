"""Tool calls in a model's reply: the parser that finds them, and the check of their arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from agentopt_local.chat import Message, ToolCall, ToolSpec
from agentopt_local.json_text import NotJsonError, check_json, read_json

_MARK = re.compile(
    r"<tool_call>\s*|```([\w+-]*)[^\S\n]*\n?|(?:^|(?<=\|>))[^\S\n]*(?=[{\[])|(?<=[^`{\s])[^\S\n]+(?=\{)", re.M
)
_PYTHON_TAG = re.compile(r"^[^\S\n]*<\|python_tag\|>", re.M)
_READ_TWICE = 16
"""How often, on average, a character may be read as part of JSON that holds no call. Marks in a text that is nothing
but the beginnings of JSON would otherwise take time that grows with the square of its length; what follows is text."""
_SEPARATOR = re.compile(r"[\s;,]*(?=\{)")


def parse_reply(text: str, tools: Sequence[ToolSpec]) -> Message:
    """The assistant turn in ``text``, in whatever form its calls are written.

    A call is JSON in Hermes tags, which may be repeated or unclosed, whether or not the name is known. If the name is
    known, a JSON object (or a list of them) with ``name`` or ``function`` and ``arguments`` or ``parameters`` is a call
    too: in a ``json`` or unnamed fence, at the start of a line, or with valid arguments at the end of the reply. Other
    fences hold no calls, and malformed JSON is text. ``content`` is the text before the first call, or all of it.
    """
    calls: list[ToolCall] = []
    first = len(text)
    for start, found in _scan(text, tools) if tools else ():
        first = min(first, start)
        calls += found
    return Message(role="assistant", content=encodable(text[:first]).strip(), tool_calls=tuple(calls))


def _scan(text: str, tools: Sequence[ToolSpec]) -> Iterator[tuple[int, list[ToolCall]]]:
    """Yield (offset, calls) for each piece of ``text`` that holds calls, from left to right."""
    known = {tool.name: tool for tool in tools}
    line_starts = {0} | {tag.end() for tag in _PYTHON_TAG.finditer(text)}
    last = len(text.rstrip())
    left = _READ_TWICE * len(text) + 4096
    at = 0
    while left > 0 and (mark := _MARK.search(text, at)):
        kind, body = mark.group().strip(), mark.end()
        at = max(body, mark.start() + 1)
        if kind == "<tool_call>":
            # Some models put a fence inside the tags.
            inner = re.compile(r"```(?:json)?\s*").match(text, body)
            value, end, read = _decode(text, inner.end() if inner else body)
            calls = _calls(value, None)
        elif kind.startswith("```"):
            value, end, read = _decode(text, body) if mark.group(1) in ("json", "") else (None, body, body)
            calls = _calls(value, known)
            close = text.find("```", end)
            end = close + 3 if close >= 0 else len(text)
        else:
            value, end, read = _decode(text, body)
            calls = _calls(value, known)
            in_line = mark.start() not in line_starts and text[mark.start() - 1] != "\n"
            if in_line and (end < last or any(check_arguments(known[c.name], c.arguments) for c in calls)):
                calls = []
            while calls and (more := _SEPARATOR.match(text, end)):
                value, next_end, _ = _decode(text, more.end())
                if not (further := _calls(value, known)):
                    break
                calls, end = calls + further, next_end
        if calls:
            yield mark.start(), calls
        else:
            left -= read - body
        at = max(at, end) if (calls or kind.startswith("```")) else at


def _decode(text: str, at: int) -> tuple[Any, int, int]:
    """The JSON value that starts at ``at``, its end, and how far the text was read; (None, ``at``, ...) if none."""
    try:
        value, end = read_json(text, at)
    except NotJsonError as error:
        return None, at, error.reached
    return value, end, end


def _calls(value: Any, known: dict[str, ToolSpec] | None) -> list[ToolCall]:
    """The calls that a JSON value represents. ``known``: the only names that count; None: any name, as inside tags."""
    if isinstance(value, list) and value:
        nested = [_calls(item, known) if isinstance(item, dict) else [] for item in value]
        return [call for calls in nested for call in calls] if all(nested) else []
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name", value.get("function"))
    arguments = value.get("arguments", value.get("parameters", {} if known is None else None))
    if isinstance(arguments, str):
        arguments = _decode(arguments, 0)[0]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return []
    if not name.isprintable() or (known is not None and name not in known):
        return []
    return [ToolCall(name=name, arguments=arguments)]


def call_ids(messages: Sequence[Message]) -> list[tuple[str, ...]]:
    """For each message the ids of its calls, numbered through the conversation.

    Equal conversations get equal ids and hit a prefix cache. They have nine characters, as Mistral's templates demand.
    """
    ids: list[tuple[str, ...]] = []
    total = 0
    for message in messages:
        ids.append(tuple(f"call{total + i:05d}" for i in range(len(message.tool_calls))))
        total += len(message.tool_calls)
    return ids


def encodable(text: str) -> str:
    """``text`` with "?" for lone surrogates, which can be neither tokenized nor sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Any:
    """The validator for a schema given as JSON text; making one takes ten times as long as a check."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


def check_arguments(tool: ToolSpec, arguments: dict[str, Any]) -> str | None:
    """What is wrong with ``arguments`` under the tool's schema, phrased for the model to act on; None if valid."""
    from jsonschema.exceptions import best_match

    try:
        check_json(arguments)
    except NotJsonError as fault:
        return f"{tool.name}: the arguments cannot be used: {fault}"
    error = best_match(_validator(json.dumps(arguments_schema(tool))).iter_errors(arguments))
    if error is None:
        return None
    where = "".join(f"[{part!r}]" if isinstance(part, int) else f".{part}" for part in error.path).lstrip(".")
    message = error.message if len(error.message) <= 200 else error.message[:197] + "..."
    if error.validator == "additionalProperties" and not error.path:
        unknown = sorted(set(arguments) - set(arguments_schema(tool)["properties"]))
        message = f"no such argument: {', '.join(unknown)[:200]}"
    return f"{tool.name}: {f'argument {where}: ' if where else ''}{message}"


def arguments_schema(tool: ToolSpec) -> dict[str, Any]:
    """The schema of the tool's arguments, which allows no others."""
    return {"type": "object", "properties": {}, **tool.parameters, "additionalProperties": False}
