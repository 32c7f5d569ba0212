"""How model families write a tool call: the grammar that lets only legal calls through, and the parser.

Two formats cover the open models in use. Hermes (Qwen2.5, Qwen3, Hermes)::

    <tool_call>
    {"name": "gcd", "arguments": {"a": 12, "b": 18}}
    </tool_call>

and Llama 3.x: ``{"name": "gcd", "parameters": {"a": 12, "b": 18}}``. Small models often write the same object
in a ```` ```json ```` fence or bare. Both grammars offer those forms too, under the same constraints: a model
that is kept from its habit does not call at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

from agentopt_local.chat import Message, ToolCall, ToolSpec

COMPACT_JSON = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""``x-guidance`` of a schema: JSON as templates write it with ``tojson``, one space after commas and colons, none
elsewhere. Free white space lets a small model write blanks until ``max_tokens``."""
# A thought counts sentence ends, not characters: llguidance keeps the token mask (10 µs) while the lexer's state
# stands still and computes it anew (1 to 2 ms at 150k tokens) whenever it moves. At most two blanks or line breaks
# in a row, so that a model that runs dry cannot fill the turn with white space.
_RUN = r'([ ]{0,2}([^<`\{.!?:\x00-\x20]|\{[^<`"\{\x00-\x20]))*'
_SENTENCE_END = r"([.!?:]{1,3}[ ]?\n{0,2}|[ ]?\n{1,2})"
_OPEN_BRACE = r'\{(\n {0,4})?"name": "'


class ToolFormat(Protocol):
    """One model family's way to write a tool call."""

    name: str

    def grammar(self, tools: Sequence[ToolSpec], text_pattern: str, max_thought_sentences: int = 12) -> str:
        """A Lark grammar in llguidance's dialect for one assistant turn.

        Either a short thought (no ``<``, no backtick, at most ``max_thought_sentences`` times one of ``.!?:`` or a
        line break) followed by exactly one call of one of ``tools`` with arguments valid under its schema, or text
        that matches ``text_pattern`` (a Rust regular expression) and holds no call. Without tools, only the text.
        """
        ...

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """The assistant turn that ``text`` stands for; see :func:`parse_reply`."""
        ...

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """Text for the system message of models whose chat template knows no tools."""
        ...


class HermesFormat:
    """``<tool_call>`` around a JSON object with ``name`` and ``arguments``."""

    name = "hermes"

    def __init__(self, *, mark_tokens: bool = False) -> None:
        """``mark_tokens``: whether the tokenizer has ``<tool_call>`` and ``</tool_call>`` as single added tokens.

        llguidance takes every added token of the form ``<...>`` for a special one, which no string matches, so the
        grammar must name it; and it refuses a grammar that names a token which the tokenizer lacks.
        """
        self.mark_tokens = mark_tokens

    def grammar(self, tools: Sequence[ToolSpec], text_pattern: str, max_thought_sentences: int = 12) -> str:
        """See :meth:`ToolFormat.grammar`."""
        if not tools:
            return _text_grammar(text_pattern)
        thought = _thought(max_thought_sentences)
        lines = [
            'tag: tag_open body "}" TAG_CLOSE',
            f'tag_open[lazy]: /{thought}<tool_call>\\n\\{{"name": "/',
            'TAG_CLOSE: "\\n</tool_call>"',
        ]
        if self.mark_tokens:
            before = "THOUGHT " if thought else ""
            lines[0] += f' | {before}<tool_call> HEAD body "}}" close\nclose: "\\n" </tool_call> | TAG_CLOSE'
            lines += ['HEAD: /\\n\\{"name": "/'] + ([f"THOUGHT: /{thought}/"] if thought else [])
        return _call_grammar(tools, text_pattern, key="arguments", thought=thought, tagged=lines)

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """See :func:`parse_reply`."""
        return parse_reply(text, tools)

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """See :meth:`ToolFormat.instructions`."""
        shape = '<tool_call>\n{"name": NAME, "arguments": {ARGUMENT: VALUE, ...}}\n</tool_call>'
        return _instructions(tools, f"To call one, end your message with\n{shape}")


class LlamaJsonFormat:
    """A bare JSON object with ``name`` and ``parameters``, as Llama 3.1 and later write it."""

    name = "llama-json"

    def grammar(self, tools: Sequence[ToolSpec], text_pattern: str, max_thought_sentences: int = 12) -> str:
        """See :meth:`ToolFormat.grammar`. A thought before the call ends with a line break."""
        if not tools:
            return _text_grammar(text_pattern)
        return _call_grammar(tools, text_pattern, key="parameters", thought=_thought(max_thought_sentences))

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """See :func:`parse_reply`."""
        return parse_reply(text, tools)

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """See :meth:`ToolFormat.instructions`."""
        shape = '{"name": NAME, "parameters": {ARGUMENT: VALUE, ...}}'
        return _instructions(tools, f"To call one, end your message with a line of this form:\n{shape}")


def format_for_template(chat_template: str | None, added_tokens: Collection[str] = ()) -> ToolFormat:
    """The format that a chat template uses; Hermes where it names none.

    ``added_tokens``: the tokenizer's added vocabulary (``tokenizer.get_added_vocab()``), which decides whether
    Hermes marks may be single tokens.
    """
    template = chat_template or ""
    if "<tool_call>" not in template and "tools" in template and '"parameters": ' in template:
        return LlamaJsonFormat()
    return HermesFormat(mark_tokens="<tool_call>" in added_tokens and "</tool_call>" in added_tokens)


def _thought(max_sentences: int) -> str:
    if max_sentences == 0:
        return ""
    return f"({_RUN}{_SENTENCE_END}){{0,{max_sentences}}}{_RUN}[ ]{{0,2}}"


def _text_pattern(pattern: str) -> str:
    from llguidance import regex_to_lark

    return f"/(?:{regex_to_lark(pattern)})/"


def _text_grammar(text_pattern: str) -> str:
    return f"%llguidance {{}}\nstart: TEXT\nTEXT: {_text_pattern(text_pattern)}\n"


def _call_grammar(
    tools: Sequence[ToolSpec], text_pattern: str, *, key: str, thought: str, tagged: Sequence[str] = ()
) -> str:
    """The lexer takes the longest lexeme, but a lazy one as soon as it is complete. So everything up to the tool's
    name is one lazy lexeme per form; otherwise TEXT would swallow the calls that are spelled out. TEXT excludes
    whatever the parser could take for a call. The names stand behind the opening, once each: a counted thought per
    tool would grow the lexer beyond its limits at 20 tools."""
    names = "|".join(re.escape(tool.name) for tool in tools)
    no_call = f'~/(.|\\n)*<tool_call(.|\\n)*/ & ~/(.|\\n)*"(name|function)"\\s*:\\s*"({names})"(.|\\n)*/'
    grammar = [
        "%llguidance {}",
        "start: TEXT | fence | bare" + (" | tag" if tagged else ""),
        f"TEXT: {_text_pattern(text_pattern)} & {no_call}",
        *tagged,
        "fence: fence_open body FENCE_CLOSE",
        f"fence_open[lazy]: /{thought}```json\\n{_OPEN_BRACE}/",
        "FENCE_CLOSE: /\\n?\\}\\n```\\n?/",
        "bare: bare_open body BARE_CLOSE",
        f"bare_open[lazy]: /({thought}\\n)?{_OPEN_BRACE}/",
        "BARE_CLOSE: /\\n?\\}/",
        "body: " + " | ".join(f"name_{i} args_{i}" for i in range(len(tools))),
    ]
    for i, tool in enumerate(tools):
        # lenient skips the keywords that llguidance does not know; check_arguments knows them.
        schema = {"x-guidance": {**COMPACT_JSON, "lenient": True}, **_arguments_schema(tool)}
        grammar.append(f'name_{i}: /{re.escape(tool.name)}",(\\n {{0,4}}| )"{key}": /')
        grammar.append(f"args_{i}: %json {json.dumps(schema)}")
    return "\n".join(grammar) + "\n"


def _arguments_schema(tool: ToolSpec) -> dict[str, Any]:
    return {"type": "object", "properties": {}, **tool.parameters, "additionalProperties": False}


def _instructions(tools: Sequence[ToolSpec], how: str) -> str:
    lines = [
        json.dumps({"name": t.name, "description": t.description, "parameters": t.parameters}, ensure_ascii=False)
        for t in tools
    ]
    return "You can call these functions, one per line as JSON:\n" + "\n".join(lines) + f"\n\n{how}\n"


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# strict=False admits raw line breaks inside strings: models write code arguments that way.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_reject_constant)
_MARK = re.compile(
    r"<tool_call>\s*|```([\w+-]*)[^\S\n]*\n?|(?:^|(?<=\|>))[^\S\n]*(?=[{\[])|(?<=[^`{\s])[^\S\n]+(?=\{)", re.M
)
_SEPARATOR = re.compile(r"[\s;,]*(?=\{)")


def parse_reply(text: str, tools: Sequence[ToolSpec]) -> Message:
    """The assistant turn in ``text``, whatever form its calls have.

    Calls are: JSON in Hermes tags, several or unclosed, known name or not; and, if the name is known, a JSON object
    (or a list of them) with ``name`` or ``function`` and ``arguments`` or ``parameters`` in a ``json`` or unnamed
    fence, at the start of a line, or at the end of the reply with valid arguments. Other fences hold no calls.
    Malformed JSON is text. ``content`` is the text before the first call, or all of it where there is none.
    """
    calls: list[ToolCall] = []
    first = len(text)
    for start, found in _scan(text, tools) if tools else ():
        first = min(first, start)
        calls += found
    return Message(role="assistant", content=encodable(text[:first]).strip(), tool_calls=tuple(calls))


def _scan(text: str, tools: Sequence[ToolSpec]) -> Iterator[tuple[int, list[ToolCall]]]:
    """Yield (offset, calls) for every piece of ``text`` that holds calls, from left to right."""
    known = {tool.name: tool for tool in tools}
    at = 0
    while mark := _MARK.search(text, at):
        kind, body = mark.group().strip(), mark.end()
        at = max(body, mark.start() + 1)
        if kind == "<tool_call>":
            # Some models put a fence inside the tags.
            inner = re.compile(r"```(?:json)?\s*").match(text, body)
            value, end = _decode(text, inner.end() if inner else body)
            calls = _calls(value, None)
        elif kind.startswith("```"):
            value, end = _decode(text, body) if mark.group(1) in ("json", "") else (None, body)
            calls = _calls(value, known)
            close = text.find("```", end)
            end = close + 3 if close >= 0 else len(text)
        else:
            value, end = _decode(text, body)
            calls = _calls(value, known)
            in_line = body > 0 and text[text.rfind("\n", 0, body) + 1 : body].strip() not in ("", "<|python_tag|>")
            if in_line and (text[end:].strip() or any(check_arguments(known[c.name], c.arguments) for c in calls)):
                calls = []
            while calls and (more := _SEPARATOR.match(text, end)):
                value, next_end = _decode(text, more.end())
                if not (further := _calls(value, known)):
                    break
                calls, end = calls + further, next_end
        if calls:
            yield mark.start(), calls
        at = max(at, end) if (calls or kind.startswith("```")) else at


def _decode(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that starts at ``at`` and its end; (None, ``at``) where there is none."""
    try:
        value, end = _DECODER.raw_decode(text, len(text) - len(text[at:].lstrip()))
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # refuses 1e999 and lone surrogates
    except (ValueError, RecursionError):
        return None, at
    return value, end


def _calls(value: Any, known: dict[str, ToolSpec] | None) -> list[ToolCall]:
    """The calls that a JSON value stands for. ``known``: the only names that count; None = inside tags."""
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
        arguments, _ = _decode(arguments, 0)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return []
    if not name.isprintable() or (known is not None and name not in known):
        return []
    return [ToolCall(name=name, arguments=arguments)]


def encodable(text: str) -> str:
    """``text`` with "?" for lone surrogates, which can be neither tokenised nor sent on."""
    return text.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Any:
    """The validator of a schema's JSON text; making one costs ten times a check."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


def check_arguments(tool: ToolSpec, arguments: dict[str, Any]) -> str | None:
    """What is wrong with ``arguments`` under the tool's schema, for the model to act on; None if nothing is."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(json.dumps(_arguments_schema(tool))).iter_errors(arguments))
    if error is None:
        return None
    where = "".join(f"[{part!r}]" if isinstance(part, int) else f".{part}" for part in error.path).lstrip(".")
    message = error.message if len(error.message) <= 200 else error.message[:197] + "..."
    if error.validator == "additionalProperties" and not error.path:
        unknown = sorted(set(arguments) - set(_arguments_schema(tool)["properties"]))
        message = f"no such argument: {', '.join(unknown)[:200]}"
    return f"{tool.name}: {f'argument {where}: ' if where else ''}{message}"
