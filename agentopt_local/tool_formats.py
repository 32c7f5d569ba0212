"""How model families write tool calls, and the grammars that let only legal calls through.

Two formats cover the open models in use. Hermes (Qwen2.5, Qwen3, Hermes)::

    <tool_call>
    {"name": "gcd", "arguments": {"a": 12, "b": 18}}
    </tool_call>

and Llama 3.x: ``{"name": "gcd", "parameters": {"a": 12, "b": 18}}``. Small models often write the same object
in a ```` ```json ```` fence or bare. Both grammars allow those forms too, under the same constraints: a model that is
kept from its habit does not call at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from agentopt_local.chat import Message, ToolSpec
from agentopt_local.tool_calls import NAMES, arguments_schema, parse_reply

COMPACT_JSON = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "json_allowed_escapes": 'nt"\\',
}
"""``x-guidance`` of a schema: JSON as chat templates write it with ``tojson``, one space after commas and colons and
none elsewhere. If white space were free, a small model could write blanks until ``max_tokens``. Without the escapes
``\\b``, ``\\f``, ``\\r`` and ``\\u``, a model that begins ``\\frac`` has to double its backslash; what it means by
``\\n`` and ``\\t`` is decided where the reply is read, in ``json_escapes.py``."""
_ESCAPES = ', "json_allowed_escapes": ' + json.dumps(COMPACT_JSON["json_allowed_escapes"])
# A thought is limited by sentence ends, not characters: llguidance reuses the token mask (10 µs) while the lexer's
# state stays the same and computes a new one (1 to 2 ms at 150k tokens) whenever it changes. At most two blanks or
# line breaks may follow each other, so that a model with nothing to say cannot fill the turn with white space.
_RUN = r'([ ]{0,2}([^<`\{.!?:\x00-\x20]|\{[^<`"\{\x00-\x20]))*'
_SENTENCE_END = r"([.!?:]{1,3}[ ]?\n{0,2}|[ ]?\n{1,2})"
_OPEN_BRACE = r'\{(\n {0,4})?"name": "'


class ToolFormat(Protocol):
    """One model family's way of writing a tool call."""

    name: str

    def grammar(self, tools: Sequence[ToolSpec], text_pattern: str, max_thought_sentences: int = 12) -> str:
        """A Lark grammar in llguidance's dialect for one assistant turn.

        Either a short thought (without ``<`` or backticks, and with at most ``max_thought_sentences`` ends of sentences
        or lines) followed by exactly one call of one of ``tools`` with arguments valid under its schema, or text that
        matches ``text_pattern`` (a Rust regular expression) and holds no call. Without tools, only the text.
        """
        ...

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """The assistant turn in ``text``; see :func:`~agentopt_local.tool_calls.parse_reply`."""
        ...

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """Text for the system message of models whose chat template does not support tools."""
        ...


class HermesFormat:
    """``<tool_call>`` around a JSON object with ``name`` and ``arguments``."""

    name = "hermes"

    def __init__(self, *, mark_tokens: bool = False) -> None:
        """``mark_tokens``: whether the tokenizer has ``<tool_call>`` and ``</tool_call>`` as single added tokens.

        llguidance treats every added token of the form ``<...>`` as special. No string matches a special token, so the
        grammar must name it, but llguidance rejects a grammar that names a token which the tokenizer lacks.
        """
        self.mark_tokens = mark_tokens

    def grammar(self, tools: Sequence[ToolSpec], text_pattern: str, max_thought_sentences: int = 12) -> str:
        """See :meth:`ToolFormat.grammar`."""
        if not tools:
            return _text_grammar(text_pattern)
        thought = thought_pattern(max_thought_sentences)
        lines = [
            'tag: tag_open body "}" TAG_CLOSE',
            f'tag_open[lazy]: /{thought}<tool_call>\\n\\{{"name": "/',
            'TAG_CLOSE: "\\n</tool_call>"',
        ]
        if self.mark_tokens:
            before = "THOUGHT " if thought else ""
            # Either form may end in either way: where text must follow, llguidance offers the special token that spells
            # it and then refuses it.
            lines[0] = f'tag: tag_open body "}}" close | {before}<tool_call> HEAD body "}}" close'
            lines.append('close: "\\n" </tool_call> | TAG_CLOSE')
            lines += ['HEAD: /\\n\\{"name": "/'] + ([f"THOUGHT: /{thought}/"] if thought else [])
        return _call_grammar(tools, text_pattern, key="arguments", thought=thought, tagged=lines)

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """See :meth:`ToolFormat.parse`."""
        return parse_reply(text, tools)

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """See :meth:`ToolFormat.instructions`."""
        shape = '<tool_call>\n{"name": NAME, "arguments": {ARGUMENT: VALUE, ...}}\n</tool_call>'
        return described(tools, f"To call one, end your message with\n{shape}")


class LlamaJsonFormat:
    """A bare JSON object with ``name`` and ``parameters``, as Llama 3.1 and later write it."""

    name = "llama-json"

    def grammar(self, tools: Sequence[ToolSpec], text_pattern: str, max_thought_sentences: int = 12) -> str:
        """See :meth:`ToolFormat.grammar`. A thought before a call ends with a line break."""
        if not tools:
            return _text_grammar(text_pattern)
        return _call_grammar(tools, text_pattern, key="parameters", thought=thought_pattern(max_thought_sentences))

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """See :meth:`ToolFormat.parse`."""
        return parse_reply(text, tools)

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """See :meth:`ToolFormat.instructions`."""
        shape = '{"name": NAME, "parameters": {ARGUMENT: VALUE, ...}}'
        return described(tools, f"To call one, end your message with a line of this form:\n{shape}")


def thought_pattern(max_sentences: int) -> str:
    """The regular expression of the short text that may precede a call."""
    if max_sentences == 0:
        return ""
    return f"({_RUN}{_SENTENCE_END}){{0,{max_sentences}}}{_RUN}[ ]{{0,2}}"


def text_pattern_lark(pattern: str) -> str:
    """A Rust regular expression as a Lark one."""
    from llguidance import regex_to_lark

    return f"/(?:{regex_to_lark(pattern)})/"


def _text_grammar(text_pattern: str) -> str:
    return f"%llguidance {{}}\nstart: TEXT\nTEXT: {text_pattern_lark(text_pattern)}\n"


def _call_grammar(
    tools: Sequence[ToolSpec], text_pattern: str, *, key: str, thought: str, tagged: Sequence[str] = ()
) -> str:
    """The grammar of a turn that is a call or text.

    The lexer takes the longest lexeme, but a lazy one as soon as it is complete. So everything up to the tool's name is
    one lazy lexeme per form; otherwise TEXT would swallow calls that are spelled out. TEXT excludes whatever the parser
    could read as a call.

    The tools' names follow the opening instead of being part of it: a counted thought per tool would exceed the lexer's
    limits at 20 tools. For the same reason ``text_pattern`` should not count repetitions: next to the forms of a call,
    ``{1,300}`` exceeds these limits and costs milliseconds per token. Token budgets limit the length instead.
    """
    names = "|".join(re.escape(tool.name) for tool in tools)
    no_call = (
        f"~/(.|\\n)*(<(tool_call|function|invoke)|to=functions|\\[TOOL_CALLS)(.|\\n)*/"
        f' & ~/(.|\\n)*"({"|".join(NAMES)})"\\s*:\\s*"({names})"(.|\\n)*/ & ~/\\s*\\[\\s*({names})\\((.|\\n)*/'
    )
    grammar = [
        "%llguidance {}",
        "start: TEXT | fence | bare" + (" | tag" if tagged else ""),
        f"TEXT: {text_pattern_lark(text_pattern)} & {no_call}",
        *tagged,
        "fence: fence_open body FENCE_CLOSE",
        f"fence_open[lazy]: /{thought}```json\\n{_OPEN_BRACE}/",
        # Qwen's tokenizer has one token for a fence and its line break; if it is masked, no fence can be closed.
        "FENCE_CLOSE: /\\n?\\}\\n```\\n?/",
        "bare: bare_open body BARE_CLOSE",
        f"bare_open[lazy]: /({thought}\\n)?{_OPEN_BRACE}/",
        "BARE_CLOSE: /\\n?\\}/",
        "body: " + " | ".join(f"name_{i} args_{i}" for i in range(len(tools))),
    ]
    for i, tool in enumerate(tools):
        schema = guided(arguments_schema(tool), lenient=True)
        grammar.append(f'name_{i}: /{re.escape(tool.name)}",(\\n {{0,4}}| )"{key}": /')
        grammar.append(f"args_{i}: %json {json.dumps(schema)}")
    return "\n".join(grammar) + "\n"


def guided(schema: dict[str, Any], *, lenient: bool = False) -> dict[str, Any]:
    """``schema`` with llguidance's options for the JSON that a model writes.

    ``lenient`` skips the keywords that llguidance does not support; check_arguments covers those of arguments.
    """
    options: dict[str, Any] = {**COMPACT_JSON, **({"lenient": True} if lenient else {})}
    if re.search(r"(?<!\\)(?:\\\\)*\\[bfru]", json.dumps(schema, ensure_ascii=False)):  # constants may need any escape
        del options["json_allowed_escapes"]
    return {"x-guidance": options, **schema}


def without_escapes(grammar: str) -> str:
    """``grammar``, or the JSON text of a schema, for versions of llguidance that know no option for escapes."""
    return grammar.replace(_ESCAPES, "")


def described(tools: Sequence[ToolSpec], how: str) -> str:
    """``tools`` in words, and ``how`` to call them."""
    lines = [
        json.dumps({"name": t.name, "description": t.description, "parameters": t.parameters}, ensure_ascii=False)
        for t in tools
    ]
    return "You can call these functions, one per line as JSON:\n" + "\n".join(lines) + f"\n\n{how}\n"
