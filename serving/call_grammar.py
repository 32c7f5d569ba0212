"""A grammar that lets only text or calls in a family's own form pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentopt_local.chat import ToolSpec
from agentopt_local.tool_calls import arguments_schema
from agentopt_local.tool_formats import guided, text_pattern_lark, thought_pattern
from serving.call_form import NAME, CallForm
from serving.grammar_text import Marks, atoms, literal, pieces, regex

EMPTY = '""'


def call_grammar(
    forms: Sequence[CallForm],
    tools: Sequence[ToolSpec],
    text_pattern: str,
    marks: Marks,
    *,
    max_thought_sentences: int,
    text_opening: str = "",
) -> str:
    """A Lark grammar in llguidance's dialect for one turn: a call of one of ``tools`` in one of ``forms``, or text.

    See :meth:`~agentopt_local.tool_formats.ToolFormat.grammar`. ``marks``: the tokenizer's special tokens by their
    text; a grammar must name them by id, because no string matches a special token. ``text_opening``: what precedes
    text; families that have it write none before a call.
    """
    writer = _Writer(marks)
    thought = "" if text_opening else thought_pattern(max_thought_sentences)
    text = text_pattern_lark(text_pattern)
    calls = []
    for number, form in enumerate(forms):
        opening = list(pieces(form.opening, marks))
        first, rest = (opening[0], opening[1:]) if opening else ("", [])
        if isinstance(first, int):
            mark = next(mark for mark, token in marks.items() if token == first)
            text += f" & ~/(.|\\n)*{regex(mark)}(.|\\n)*/"  # nor spelled out in other tokens
            begin = (f"{writer.rule(f'/{thought}/', terminal=True)}? " if thought else "") + atoms(opening)
        else:
            text += f" & ~/(.|\\n)*{regex(first.strip() or NAME)}(.|\\n)*/"
            begin = f"{writer.rule(f'/{thought}{regex(first)}/', attributes='[lazy]')} {atoms(rest)}"
        body = " | ".join(_call(writer, form, tool) for tool in tools)
        closing = writer.literal(form.closing.rstrip())
        calls.append(f"call_{number}: {begin} ({body}) {closing}")
    start = " | ".join([f"{literal(text_opening, marks)} TEXT", *(f"call_{number}" for number in range(len(forms)))])
    return "\n".join(["%llguidance {}", f"start: {start}", f"TEXT: {text}", *calls, *writer.lines]) + "\n"


def _call(writer: _Writer, form: CallForm, tool: ToolSpec) -> str:
    """A rule for the name and the arguments of a call."""
    schema = arguments_schema(tool)
    if form.style == "json":
        return writer.rule(f"{writer.literal(tool.name + form.named)} {writer.json(schema)}")
    return writer.rule(_items(writer, form, tool.name, schema))


def _items(writer: _Writer, form: CallForm, name: str, schema: dict[str, Any]) -> str:
    """Arguments in the order of their schema; those that are not required may be left out."""
    required = set(schema.get("required", ()))
    separator = writer.literal(form.separator)
    none = writer.literal(name + form.empty.rstrip().removesuffix(form.closing.rstrip()))
    first = rest = ""
    """The arguments from one on: as the first ones, and after at least one other."""
    for key, each in reversed(schema["properties"].items()):
        item = writer.item(form, key, each)
        optional = key not in required
        first = writer.rule(f"{item} {rest}" + (f" | {first}" if optional and first else ""))
        rest = writer.rule(f"{separator} {item} {rest}" + (f" | {rest or EMPTY}" if optional else ""))
    if not first:
        return none
    some = f"{writer.literal(name + form.named)} {first}"
    return some if required else f"{some} | {none}"


def is_text(schema: Any) -> bool:
    """Whether a value under ``schema`` is written as a string."""
    if not isinstance(schema, dict):
        return True
    if "anyOf" in schema:
        return any(is_text(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return all(isinstance(each, str) for each in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    return kind == "string" or (isinstance(kind, list) and "string" in kind)


class _Writer:
    """Writes rules of one grammar and keeps the lines that they need."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.lines: list[str] = []
        self._rules: dict[str, str] = {}

    def rule(self, body: str, *, attributes: str = "", terminal: bool = False) -> str:
        """The name of a rule with this body; equal bodies share one."""
        key = attributes + body
        if key not in self._rules:
            name = f"{'T' if terminal else 'r'}{len(self._rules)}"
            self._rules[key] = name
            self.lines.append(f"{name}{attributes}: {body}")
        return self._rules[key]

    def literal(self, text: str) -> str:
        """``text`` as a sequence in Lark."""
        return literal(text, self.marks)

    def json(self, schema: Any) -> str:
        """A JSON value under ``schema``. Keywords that llguidance does not know are skipped and checked later."""
        return self.rule(f"%json {json.dumps(guided(schema, lenient=True))}")

    def item(self, form: CallForm, key: str, schema: Any) -> str:
        """One argument and what follows its value."""
        text = is_text(schema)
        head = self.literal(form.before + key + (form.between_text if text else form.between))
        choices = schema.get("enum", [schema["const"]] if "const" in schema else ()) if isinstance(schema, dict) else ()
        if form.quote:
            return f"{head} {self.quoted(form, schema)} {self.literal(form.after)}"
        if not text:
            return f"{head} {self.json(schema)} {self.literal(form.after)}"
        if choices:
            return f"{head} {self.rule(' | '.join(self.literal(each) for each in choices))} {self.literal(form.after)}"
        raw, rest = self.raw_until(form.after)
        return f"{head} {raw} {rest}"

    def raw_until(self, end: str) -> tuple[str, str]:
        """Any text up to ``end``: a rule that takes the first plain text of ``end`` along, and the rest of ``end``."""
        first = next(pieces(end, self.marks), "")
        if isinstance(first, int):
            return self.rule(r"/(.|\n)*/", terminal=True), self.literal(end)
        if not first:
            return self.rule(r"/[^\n]*/", terminal=True), ""
        return self.rule(f"/(.|\\n)*{regex(first)}/", attributes="[lazy]"), self.literal(end[len(first) :])

    def quoted(self, form: CallForm, schema: Any) -> str:
        """A value whose strings are quoted wherever they are: Python literals, or with a mark as a quote."""
        schema = schema if isinstance(schema, dict) else {}
        kind = schema.get("type", ["string", "number", "boolean"])
        if "anyOf" in schema:
            options = [self.quoted(form, each) for each in schema["anyOf"]]
        elif "enum" in schema or "const" in schema:
            options = [self.constant(form, each) for each in schema.get("enum", [schema.get("const")])]
        elif isinstance(kind, list):
            options = [self.quoted(form, {**schema, "type": each}) for each in kind]
        elif kind in ("boolean", "null"):
            options = [self.constant(form, each) for each in ((True, False) if kind == "boolean" else (None,))]
        elif kind in ("integer", "number"):
            fraction = r"(\.[0-9]{1,15})?" if kind == "number" else ""
            options = [self.rule(rf"/-?(0|[1-9][0-9]{{0,14}}){fraction}/", terminal=True)]
        else:
            write = {"array": self.array, "object": self.object}.get(kind)
            options = [self.text(form) if write is None else write(form, schema)]
        return options[0] if len(options) == 1 else self.rule(" | ".join(options))

    def array(self, form: CallForm, schema: dict[str, Any]) -> str:
        """A list."""
        item = self.quoted(form, schema.get("items"))
        comma = '", "' if form.pythonic else '","'
        most = schema.get("maxItems")
        more = "*" if most is None else f"{{0,{max(0, most - 1)}}}"
        return self.rule(f'"[" ({item} ({comma} {item}){more})? "]"')

    def object(self, form: CallForm, schema: dict[str, Any]) -> str:
        """A dict."""
        value = self.quoted(form, schema.get("additionalProperties"))
        key = self.text(form) if form.pythonic else self.rule(r"/[A-Za-z_][A-Za-z0-9_]{0,39}/", terminal=True)
        colon, comma = ('": "', '", "') if form.pythonic else ('":"', '","')
        return self.rule(f'"{{" ({key} {colon} {value} ({comma} {key} {colon} {value})*)? "}}"')

    def text(self, form: CallForm) -> str:
        """A quoted string."""
        if form.pythonic:
            quote = form.quote
            return self.rule(rf"/{quote}([^{quote}\\\n]|\\[nt\\'\"])*{quote}/", terminal=True)
        raw, rest = self.raw_until(form.quote)
        return f"{self.literal(form.quote)} {raw} {rest}"

    def constant(self, form: CallForm, value: Any) -> str:
        """The one way to write ``value``."""
        if isinstance(value, str):
            written = repr(value) if form.pythonic else f"{form.quote}{value}{form.quote}"
            return self.literal(written)
        return self.literal(repr(value) if form.pythonic else json.dumps(value))
