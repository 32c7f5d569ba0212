"""Tool calls in a model's reply: the parser that finds them, and the check of their arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from agentopt_local.call_arguments import read_arguments, read_python
from agentopt_local.call_elements import (
    ELEMENT,
    PAIRS,
    PYTHON_CALLS,
    known_name,
    read_calls,
    read_element,
    read_list,
    read_pairs,
)
from agentopt_local.chat import Message, ToolCall, ToolSpec
from agentopt_local.fences import Block, blocks_of
from agentopt_local.json_text import NotJsonError, check_json, read_json
from agentopt_local.thoughts import split_thought

MAX_CALLS = 32
"""Calls that are made of one turn."""
TAG = (
    r"<tool_calls?(?: [^<>\n]{1,80})?>|<tool(?:_use)?>|<TOOLCALL>|<function_calls?>|<functioncall>"
    r"|<\|tool_calls?\|>|<\|tool_call_(?:start|begin)\|>|\[TOOL_CALLS\]"
    r"|<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?|\bfunctools(?=\[)"
)
"""What opens a call, or a list of calls, in one family or another."""
_MARK = re.compile(
    rf"(?P<tag>(?:{TAG}|^[^\S\n]*<\|python_tag\|>(?=[\w.]{{1,80}}\())\s*)|(?P<element>{ELEMENT.pattern})"
    r"|(?P<named>(?:<\|channel\|>\w+ )?\bto=functions\.(?=\w))"
    r"|(?P<fence>```|~~~)|(?P<line>^[^\S\n]*(?:(?:[-*>]|\d{1,2}[.)])[^\S\n]+)?(?=[{\[])|(?<=\|>)[^\S\n]*(?=[{\[]))"
    r"|(?P<inline>(?<=[^`{\s])[^\S\n]+(?=\{))",
    re.MULTILINE,
)
_NAMED = re.compile(
    r"(?:functions\.)?(?P<name>[A-Za-z_][\w.-]*)(?::\d+)?"
    r"(?:\s|\[ARGS\]|<\|?[^<>\s{}]{1,40}\|?>|<｜[^<>\s]{1,40}｜>|json|commentary|```|:)*+(?=\{)"
)
"""A name outside of the JSON of its arguments."""
_PYTHON_TAG = re.compile(r"^[^\S\n]*<\|python_tag\|>", re.MULTILINE)
_IN_QUOTES = re.compile(r"(?:</?\|?\w{1,20}\|?>|[`\s.])*+\Z")  # what follows a call in backticks that is meant
_FENCE_IN_TAG = re.compile(r"```(?:json)?\s*")
_CLOSING = "</tool_call>"
_READ_TWICE = 16
"""How often, on average, a character may be read as part of JSON that holds no call. Marks in a text that is nothing
but the beginnings of JSON would otherwise take time that grows with the square of its length; what follows is text."""
_SEPARATOR = re.compile(r"(?:[\s;,]|^[^\S\n]*+(?://|#)[^\n]*$)*+(?=\{)", re.MULTILINE)
_HOLD_CALLS = frozenset(("", "json", "jsonc", "json5", "xml", "tool", "tool_call", "tool_calls", "function_call"))
"""The languages of fences that may hold calls."""
NAMES = ("name", "function", "tool", "tool_name", "function_name", "action")
"""The keys under which a call in JSON has its name."""
_ARGUMENTS = ("arguments", "parameters", "args", "input", "params", "kwargs", "action_input", "tool_input")
_WRAPPERS = ("function", "tool_call", "function_call", "tool_calls", "calls")
_MISSING = object()


def parse_reply(text: str, tools: Sequence[ToolSpec], *, begun: bool = True) -> Message:
    """The assistant turn in ``text``, in whatever form its calls are written.

    A call is JSON in Hermes tags, which may be repeated or unclosed, whether or not the name is known; or an element
    that names a function, with its arguments in elements or as JSON. If the name is known, a JSON object (or a list of
    them) with ``name`` or ``function`` and ``arguments`` or ``parameters`` is a call too: in a ``json`` or unnamed
    fence, at the start of a line, or with valid arguments at the end of the reply; and so is a reply that is a list of
    calls as Python writes them. Other fences hold no calls, and malformed JSON is text. ``content`` is the text before
    the first call, or all of it, without thoughts: nothing in a thought is a call. ``begun``: see
    :func:`~agentopt_local.thoughts.split_thought`.
    """
    thought, spoken = split_thought(text, begun=begun)
    calls: list[ToolCall] = []
    first = len(spoken)
    for start, found in _scan(spoken, {tool.name: tool for tool in tools}) if tools else ():
        first = min(first, start)
        calls += found
    return Message(
        role="assistant",
        content=encodable(spoken[:first]).strip(),
        thought=encodable(thought),
        tool_calls=tuple(calls),
    )


def calls_of(name: Any, arguments: Any, known: Mapping[str, ToolSpec]) -> list[ToolCall]:
    """The calls that a name and its arguments make; several if several arguments follow each other, none if they cannot
    be read."""
    if not isinstance(name, str) or not name.isprintable():
        return []
    name = known_name(name, known)
    tool = known.get(name)
    own = set(tool.parameters.get("properties", ())) if tool else set()
    made = read_arguments(arguments)
    if made and not own & set(made[0]) and made[0].get("name") == name:  # a whole call in place of its arguments
        made = read_arguments(next((made[0][key] for key in _ARGUMENTS if key in made[0]), False)) or made
    return [ToolCall(name=name, arguments=each) for each in made]


class _Scanner:
    """Finds the calls in one text, from left to right."""

    def __init__(self, text: str, known: Mapping[str, ToolSpec]) -> None:
        self.text = text
        self.known = known
        self.left = _READ_TWICE * len(text) + 4096
        self.last = len(text.rstrip())
        self.last_closing = text.rfind(_CLOSING)
        self.last_tag = max(map(text.rfind, ("<tool", "<func")))
        self.line_starts = {0} | {tag.end() for tag in _PYTHON_TAG.finditer(text)}
        self.blocks: dict[int, Block] = {block.start: block for block in blocks_of(text)} if "```" in text else {}

    def json(self, at: int) -> tuple[Any, int]:
        """The JSON value that starts at ``at``, and its end; (None, ``at``) if there is none."""
        try:
            value, end = read_json(self.text, at)
        except NotJsonError as error:
            self.left -= error.reached - at
            return None, at
        self.left -= end - at
        return value, end

    def calls(self, mark: re.Match[str]) -> tuple[list[ToolCall], int]:
        """The calls at ``mark``, and where to go on."""
        kind, at = str(mark.lastgroup), mark.end()
        if kind in ("tag", "element"):
            if kind == "tag":
                calls, end = self.tagged(at)
            else:
                calls, end = self.outside(at, *read_element(self.text, mark.start(), self.known))
            quoted = self.text.startswith("`", max(0, mark.start() - 1))
            return ([], at) if quoted and not _IN_QUOTES.match(self.text, end) else (calls, end)
        if kind == "named":
            return self.named(at)
        if kind == "fence":
            return self.fenced(mark.start(), at)
        return self.bare(mark, at)

    def tagged(self, at: int) -> tuple[list[ToolCall], int]:
        """After a tag: JSON, a name and JSON, or a name and pairs."""
        inner = _FENCE_IN_TAG.match(self.text, at)
        start = inner.end() if inner else at
        if PYTHON_CALLS.match(self.text, start):
            return self.outside(start, *read_calls(self.text, start, self.known))
        if not self.text.startswith(("{", "["), start):
            if ELEMENT.match(self.text, start):
                return self.outside(at, *read_element(self.text, start, self.known, tagged=True))
            if PAIRS.match(self.text, start):
                return self.outside(at, *read_pairs(self.text, start, self.known))
            return self.named(start)
        value, end = self.json(start)
        calls = self.of(value, anywhere=False)
        if end == start:
            closing = self.text.find(_CLOSING, start) if start < self.last_closing else len(self.text)
            if closing < len(self.text) or start > self.last_tag:
                self.left -= closing - start
                calls, end = self.of(self.repaired(self.text[start:closing]), anywhere=False), closing
        return self.more(calls, end, anywhere=False) if calls else ([], at)

    def repaired(self, source: str) -> Any:
        """A call in JSON with a slip: quotation marks of Python, a comma too many, doubled braces."""
        doubled = source.strip().startswith("{{")
        value = read_python(source.replace("{{", "{").replace("}}", "}") if doubled else source)
        return value if isinstance(value, dict) and any(key in value for key in _ARGUMENTS) else None

    def outside(self, at: int, calls: list[ToolCall], end: int) -> tuple[list[ToolCall], int]:
        """``calls`` that are no JSON and end there; without any, the text up to ``end`` was read in vain."""
        self.left -= end - at
        return calls, end if calls else at

    def named(self, at: int) -> tuple[list[ToolCall], int]:
        """A name and the JSON of its arguments."""
        name = _NAMED.match(self.text, at)
        if name is None:
            return [], at
        value, end = self.json(name.end())
        found = known_name(name["name"], self.known)
        calls = calls_of(found, value, self.known) if end > name.end() and found in self.known else []
        return calls, end if calls else at

    def fenced(self, start: int, at: int) -> tuple[list[ToolCall], int]:
        """In a fence of a language that may hold calls."""
        block = self.blocks.get(start)
        if block is None:
            return [], at
        if block.language not in _HOLD_CALLS:
            return [], block.end
        if self.text.startswith("<", block.body):
            return [], block.body
        calls: list[ToolCall] = []
        first = _SEPARATOR.match(self.text, block.body)
        start = end = first.end() if first else block.body
        while True:
            value, end = self.json(start)
            calls += self.of(value, anywhere=True)
            following = _SEPARATOR.match(self.text, end) if end > start else None
            if following is None:
                break
            start = following.end()
        if not calls:
            self.left -= len(block.text)
            return self.of(self.repaired(block.text), anywhere=True), block.end
        close = self.text.find("```", end)
        return calls, close + 3 if close >= 0 else len(self.text)

    def bare(self, mark: re.Match[str], at: int) -> tuple[list[ToolCall], int]:
        """At the start of a line, or at the end of the reply."""
        value, end = self.json(at)
        calls = self.of(value, anywhere=True)
        start = mark.start()
        in_line = start not in self.line_starts and self.text[start - 1] != "\n"
        if in_line and (end < self.last or any(check_arguments(self.known[c.name], c.arguments) for c in calls)):
            calls = []
        return self.more(calls, end, anywhere=True) if calls else ([], at)

    def more(self, calls: list[ToolCall], end: int, *, anywhere: bool) -> tuple[list[ToolCall], int]:
        """``calls`` and those that follow them with nothing between."""
        while following := _SEPARATOR.match(self.text, end):
            value, next_end = self.json(following.end())
            further = self.of(value, anywhere=anywhere)
            if not further:
                break
            calls, end = calls + further, next_end
        return calls, end

    def of(self, value: Any, *, anywhere: bool) -> list[ToolCall]:
        """The calls that a JSON value represents. ``anywhere``: it is in no tag, so that only known names count."""
        if isinstance(value, list) and value:
            nested = [self.of(item, anywhere=anywhere) if isinstance(item, dict) else [] for item in value]
            return [call for calls in nested for call in calls] if all(nested) else []
        if not isinstance(value, dict):
            return []
        wrapped = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), dict | list)), None)
        if wrapped is not None:
            return self.of(wrapped, anywhere=anywhere)
        name = next((value[key] for key in NAMES if isinstance(value.get(key), str)), None)
        arguments = next((value[key] for key in _ARGUMENTS if key in value), _MISSING)
        if not anywhere and name is None and len(value) == 1 and next(iter(value)) in self.known:
            ((name, arguments),) = value.items()
        if arguments is _MISSING:
            if anywhere:
                return []
            arguments = {key: each for key, each in value.items() if key not in (*NAMES, "type", "id")}
        calls = calls_of(name, arguments, self.known)
        return [call for call in calls if not anywhere or call.name in self.known]


def _scan(text: str, known: Mapping[str, ToolSpec]) -> Iterator[tuple[int, list[ToolCall]]]:
    """Yield (offset, calls) for each piece of ``text`` that holds calls, from left to right."""
    listed = read_list(text, known)
    if listed:
        yield 0, listed
        return
    scanner = _Scanner(text, known)
    at = 0
    while scanner.left > 0 and (mark := _MARK.search(text, at)):
        calls, end = scanner.calls(mark)
        at = max(end, mark.end(), mark.start() + 1)
        if calls:
            yield mark.start(), calls


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
