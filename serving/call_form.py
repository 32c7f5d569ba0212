"""How a model family writes a tool call, found out from its chat template.

The template of a model says how the calls of earlier turns look, so one rendered with known arguments shows the text
before the name, between name and arguments, around each argument and after the last. No list of families is needed.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from agentopt_local.chat import ToolCall, ToolSpec
from agentopt_local.record import Record

NAME = "zprobe_function"
KEYS = ("zalpha", "zbeta")
ARGUMENTS: dict[str, Any] = {KEYS[0]: 7351, KEYS[1]: "ztext"}
PROBE = ToolSpec(
    name=NAME,
    description="Zdescription.",
    parameters={
        "type": "object",
        "properties": {KEYS[0]: {"type": "integer"}, KEYS[1]: {"type": "string"}},
        "required": list(KEYS),
    },
)
PROBE_CALL = ToolCall(name=NAME, arguments=ARGUMENTS)
CALL_ID = re.compile(r"call\d{5}")


class CallForm(Record):
    """The text of one call: ``opening`` NAME ``named`` ARGUMENTS ``closing``."""

    opening: str
    named: str
    closing: str
    empty: str = ""
    """What follows the name if there are no arguments; not for JSON."""
    style: Literal["json", "items"]
    """``json``: the arguments are one JSON object; ``items``: each is written as ``before`` KEY ``between`` VALUE
    ``after``, joined by ``separator``."""
    before: str = ""
    between: str = ""
    between_text: str = ""
    """``between`` for a string."""
    after: str = ""
    separator: str = ""
    quote: str = ""
    """Around a string, in lists and dicts too; empty: a string stands there as it is, and lists and dicts are JSON."""

    def example(self) -> str:
        """A call, for models that are told in words how to write one."""
        if self.style == "json":
            return f'{self.opening}NAME{self.named}{{"ARGUMENT": VALUE, ...}}{self.closing}'
        return f"{self.opening}NAME{self.named}{self.before}ARGUMENT{self.between}VALUE{self.after}{self.closing}"

    @property
    def pythonic(self) -> bool:
        """Whether values are written as Python literals."""
        return self.quote in ("'", '"')


def read_form(empty: str, full: str) -> CallForm | None:
    """The form of a call of :data:`PROBE`, rendered without arguments and with :data:`ARGUMENTS`.

    Both texts begin with the call and end with it. None if the arguments cannot be found in ``full``.
    """
    opening, found, rest = full.partition(NAME)
    opening = opening.lstrip("\n")
    if not found or NAME in rest:
        return None
    brace = rest.find("{" + f'"{KEYS[0]}"')
    return _items(opening, rest, empty) if brace < 0 else _json(opening, rest, brace)


def _json(opening: str, rest: str, brace: int) -> CallForm | None:
    """The form of a call whose arguments are JSON that starts at ``brace``."""
    try:
        value, length = json.JSONDecoder().raw_decode(rest[brace:])
    except ValueError:
        return None
    form = CallForm(opening=opening, named=rest[:brace], closing=rest[brace + length :], style="json")
    return form if value == ARGUMENTS else None


def _items(opening: str, rest: str, empty: str) -> CallForm | None:
    """The form of a call that writes its arguments one by one."""
    pieces = re.split(f"{KEYS[0]}|{ARGUMENTS[KEYS[0]]}|{KEYS[1]}|{ARGUMENTS[KEYS[1]]}", rest)
    if len(pieces) != 5 or NAME not in empty:
        return None
    first, between, middle, between_text, last = pieces
    before = common_prefix(first[::-1], middle[::-1])[::-1]
    middle = middle[: len(middle) - len(before)]
    quote = between_text.removeprefix(between) if between_text.startswith(between) else ""
    if quote and not last.startswith(quote):
        return None
    last = last.removeprefix(quote)
    after = common_prefix(middle, last)
    return CallForm(
        opening=opening,
        named=first[: len(first) - len(before)],
        closing=last[len(after) :],
        empty=empty.partition(NAME)[2],
        style="items",
        before=before,
        between=between,
        between_text=between if quote else between_text,
        after=after,
        separator=middle[len(after) :],
        quote=quote,
    )


def common_prefix(*texts: str) -> str:
    """The longest text with which all of ``texts`` begin."""
    shortest = min(texts, key=len)
    return next((shortest[:i] for i, same in enumerate(zip(*texts, strict=False)) if len(set(same)) > 1), shortest)
