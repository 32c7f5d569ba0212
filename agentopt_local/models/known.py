"""What is known of a server, and what a refusal teaches about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from agentopt_local.models.refusals import TEMPLATE, named_fields
from agentopt_local.models.server_error import Refusal
from agentopt_local.models.thinking import THOUGHT_FIELDS
from agentopt_local.record import Record

Structured = Literal["auto", "json_schema", "vllm", "none"]
LIMITS = ("max_tokens", "max_completion_tokens")
LEAST_TEMPERATURE = 0.01
"""Sent in place of 0 to a server that wants more than 0: it picks the likeliest token all the same."""
INT32 = 2**31 - 1
NO_CONTENT, NO_TEXT = "null content", "empty content"
"""Contents of messages that some servers refuse: null beside calls, and a text without a word."""
_NUMBER = re.compile(r"(?<![\w.])(?:(?<![\[(])[0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,12}(?:\.[0-9]{1,9})?)(?![\w])")
_ALTERNATE = re.compile(r"alternat|consecutive|successive|in a row|after role|interleav|message_order")
_TOOL_ROLE = re.compile(r"variant \W?tool|\btool\W{0,2} (role|message)|role\W{1,4}tool")
_SYSTEM = re.compile(r"system|developer")
_POSITIVE = re.compile(r"positive|non-?zero|\b0(\.0)? is not|small(er)? value")
_LEAST = re.compile(
    r"(?:(?:at least|minimum|(?:great|larg|high)er|above|between|range|from)\b|>=?|≥|\bin\b(?=[^\w]{1,4}[0-9]))"
    r"[^0-9.;|]{0,30}([0-9]{1,9}(?:\.[0-9]{1,9})?)"
)
"""The least that may be, or that must be exceeded."""
_EXCLUSIVE = re.compile(r"exclusive|(?:(?:less|smaller|lower) than|below|<) ?\W?[0-9]")


class Known(Record):
    """What a server is known to accept. It starts from the settings."""

    mode: Structured
    """How a constraint is passed on."""
    strict: bool = True
    """Whether a schema may be called strict."""
    vllm: bool = False
    """Whether the server is vLLM, however replies are constrained."""
    escapes: bool = True
    """Whether its llguidance knows the option for the escapes of JSON."""
    limit: str | None = LIMITS[0]
    """The field for the most tokens to generate; None: the server has none."""
    most_tokens: int | None = None
    """The largest limit that it accepts."""
    least_temperature: float = 0.0
    most_temperature: float | None = None
    most_seed: int | None = None
    refused: frozenset[str] = frozenset()
    """Optional fields that it does not accept, values of reasoning_effort, and contents (NO_CONTENT, NO_TEXT)."""
    calls: Literal["unknown", "text", "fields", "words"] = "unknown"
    """How calls come back: from vLLM as text if it has no tool parser; in fields only, if its parser drops our format.
    ``words``: the server knows no tools, so they are described in words and calls are text."""
    takes_turns: bool = False
    """Whether it refuses two turns of one side in a row."""
    no_system: bool = False
    """Whether it refuses a system turn."""
    thought_field: str | None = None
    """Where it wrote a thought and therefore accepts one."""
    every_thought: bool = False
    """Whether it wants the thoughts of all turns back, and not just of the latest calls."""

    def without(self, *fields: str) -> Known:
        """The same, with these fields refused."""
        return self.model_copy(update={"refused": self.refused | set(fields)})

    def joined(self, start: Known, end: Known) -> Known:
        """This, with what was learned between ``start`` and ``end``: other requests may have taught more meanwhile."""
        new = {name: value for name, value in end if value != getattr(start, name)}
        if "refused" in new:
            new["refused"] = self.refused | end.refused
        return self.model_copy(update=new) if new else self


Body = Mapping[str, Any]
Teach = Callable[[Known, Body, Refusal], Known | None]


def weaker(known: Known, body: Body, refusal: Refusal, *, free: bool, rows: Callable[[Known], Any]) -> Known | None:
    """What to take for known after ``refusal`` of ``body``; None if nothing in it can be blamed.

    What the refusal names as a field counts most, then what its words name first. ``free``: whether constraints may be
    passed on in a weaker mode. ``rows``: the conversation as it would be sent under something known; a change that
    leaves it as it is cannot help.
    """
    said = refusal.said
    if known.escapes and "json_allowed_escapes" in said:
        return known.model_copy(update={"escapes": False})
    places: list[tuple[int, int, Known]] = []

    def blame(place: int, change: Known | None) -> None:
        if change is not None and change != known:
            places.append((place, len(places), change))

    if found := TEMPLATE.search(said):
        for form in _conversation_changes(known, said):
            if rows(form) != rows(known):
                blame(found.start(), form)
    for names, teach in _FIELDS:
        for place, _ in named_fields(refusal, names):
            blame(place, teach(known, body, refusal))
    for pattern, teach in _TOPICS:
        if topic := pattern.search(said):
            change = teach(known, body, refusal) if free or teach is not _constraint else None
            blame(-1 if any(pattern.search(each.lower()) for each in refusal.fields) else topic.start(), change)
    if places:
        return min(places, key=lambda each: each[:2])[2]
    return _constraint(known, body, refusal) if free else None


def _conversation_changes(known: Known, said: str) -> list[Known]:
    """The forms of a conversation to try, the likeliest first. Each goes on from what is known."""
    turns = known.model_copy(update={"takes_turns": True})
    folded = known.model_copy(update={"no_system": True})
    flat = known.model_copy(update={"takes_turns": True, "calls": "words"})
    if _ALTERNATE.search(said):
        return [turns, flat, folded]
    if _TOOL_ROLE.search(said):
        return [flat, turns, folded]
    if _SYSTEM.search(said):
        return [folded, turns, flat]
    return [turns, flat, folded]


def _limit(known: Known, body: Body, refusal: Refusal) -> Known | None:
    sent = next((field for field in LIMITS if field in body), None)
    if sent is None:
        return None
    other = LIMITS[1 - LIMITS.index(sent)]
    said = refusal.said
    excluded = _EXCLUSIVE.search(said) is not None
    allowed = [number - excluded for number in _numbers(said) if 1 < number < body[sent]]
    unsupported = re.search(
        r"unsupported|not support|unrecogni|unknown|not permitted|instead|not allowed|deprecat", said
    )
    if allowed and not unsupported:
        return known.model_copy(update={"most_tokens": int(max(allowed))})
    if other not in known.refused:
        return known.model_copy(update={"limit": other, "refused": known.refused | {sent}})
    return known.model_copy(update={"limit": None})


def _temperature(known: Known, body: Body, refusal: Refusal) -> Known | None:
    if "temperature" not in body:
        return None
    sent, said = body["temperature"], refusal.said
    if "top_p" in body and re.search(r"\btop_?p\b", said):
        return known.without("top_p")  # where only one of the two is accepted, the temperature is meant
    below = [number for number in _numbers(said) if 0 < number < sent]
    only = re.search(r"only the default|not supported with|unsupported param", said)
    least = float(found[1]) if (found := _LEAST.search(said)) else 0.0
    if not only and sent < least <= 1:
        return known.model_copy(update={"least_temperature": least})
    if not only and sent == 0 and (found or _POSITIVE.search(said)):
        return known.model_copy(update={"least_temperature": LEAST_TEMPERATURE})
    if below and not only and re.search(r"less than|at most|<=|maximum|between|range|exceed|up to", said):
        return known.model_copy(update={"most_temperature": max(below)})
    return known.without("temperature")


def _seed(known: Known, body: Body, refusal: Refusal) -> Known | None:
    if (
        body.get("seed", 0) > INT32
        and known.most_seed is None
        and re.search(r"int_?32|2147483647|2\*\*31", refusal.said)
    ):
        return known.model_copy(update={"most_seed": INT32})
    return known.without("seed") if "seed" in body else None


def _field(name: str) -> Teach:
    return lambda known, body, _: known.without(name) if name in body else None


def _effort(known: Known, body: Body, _: Refusal) -> Known | None:
    return known.without(body["reasoning_effort"]) if "reasoning_effort" in body else None


def _thought(known: Known, body: Body, refusal: Refusal) -> Known | None:
    field = next(name for _, name in named_fields(refusal, THOUGHT_FIELDS))
    if "passed back" in refusal.said and not known.every_thought:  # DeepSeek, once there are calls
        return known.model_copy(update={"thought_field": field, "every_thought": True})
    if not any(field in row for row in body["messages"]):
        return None
    return known.without(field).model_copy(update={"thought_field": None})


def _constraint(known: Known, body: Body, refusal: Refusal) -> Known | None:
    """The next weaker way to pass a constraint on."""
    if "structured_outputs" in body:
        return known.model_copy(update={"mode": "json_schema"})
    if "response_format" not in body:
        return None
    strict = body["response_format"]["json_schema"]["strict"]
    if strict and re.search(r"invalid[ _](json[ _])?schema|strict|additionalproperties", refusal.said):
        return known.model_copy(update={"strict": False})
    return known.model_copy(update={"mode": "none"})


def _tools(known: Known, body: Body, refusal: Refusal) -> Known | None:
    if body.get("tool_choice") == "auto" and "tool choice requires" in refusal.said:
        return known.model_copy(update={"vllm": True, "calls": "text"})  # vLLM's words
    if "tool_choice" in body and re.search("tool[_ ]choice", refusal.said):
        return known.without("tool_choice")
    calls = any(row.get("tool_calls") or row["role"] == "tool" for row in body["messages"])
    return known.model_copy(update={"calls": "words"}) if "tools" in body or calls else None


def _blank(known: Known, body: Body, refusal: Refusal) -> Known | None:
    contents = [row["content"] for row in body["messages"]]
    wordless = any(content is not None and not content.strip() for content in contents)
    if None in contents and (not wordless or "null" in refusal.said):
        return known.without(NO_CONTENT)
    return known.without(NO_TEXT) if wordless else None


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)[:50]]


_FIELDS: tuple[tuple[tuple[str, ...], Teach], ...] = (
    (("chat_template_kwargs", "chat_template"), _field("chat_template_kwargs")),
    (("reasoning_effort",), _effort),
    (THOUGHT_FIELDS, _thought),
    (("temperature",), _temperature),
    (("top_p",), _field("top_p")),
    (("seed",), _seed),
    ((*LIMITS, "max_new_tokens", "max_output_tokens"), _limit),
)
_TOPICS: tuple[tuple[re.Pattern[str], Teach], ...] = (
    (
        re.compile(
            r"response_?format|json[ _]?schema|structured[ _]?outputs?|json[ _]?(mode|object)|response_?schema|schema|"
            r"grammar|guided|text\.format|response_mime_type"
        ),
        _constraint,
    ),
    (
        re.compile(
            r"\bcontents?\b.{0,80}\b(null|none|empty|blank|required)\b|empty.{0,30} content|messages\W+[0-9]+\W+content"
        ),
        _blank,
    ),
    (re.compile(r"\btools?\b|tool[_ ](choice|use|call)|function[ _-]?(call|declaration|use)"), _tools),
)
