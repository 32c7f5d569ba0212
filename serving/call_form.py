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
COUNT = "\ue000"
"""Stands in a form for the number that a call has."""
ANY_ID = re.compile(rf"{COUNT}|{CALL_ID.pattern}")


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
    again: str = ""
    """Between the arguments of a call and the name of the next one of the same turn; only for JSON."""
    counts: Literal["nothing", "turn", "conversation"] = "nothing"
    """What the numbers of calls, at :data:`COUNT`, count: the calls of a turn, or all of a conversation."""
    first: int = 0
    """The number of the first call."""

    def of(self, made: int) -> CallForm:
        """The form of a turn's first call that ``made`` calls precede, with its id and its number."""
        number = str(self.first + (made if self.counts == "conversation" else 0))
        texts = {name: getattr(self, name) for name in ("opening", "named", "closing", "empty")}
        return self.model_copy(
            update={name: CALL_ID.sub(f"call{made:05d}", text).replace(COUNT, number) for name, text in texts.items()}
        )

    def ids_in(self, text: str) -> list[str]:
        """The ids and numbers of the calls that ``text`` makes, as they are written; empty if the form has none."""
        for part, before, after in (("opening", False, True), ("named", True, True), ("closing", True, False)):
            left, *rest = ANY_ID.split(getattr(self, part), maxsplit=1)
            if rest:
                start = re.escape(left if before else left[-1:]) or r"(?<!\w)"
                return re.findall(start + r"(\w+)" + (loose(rest[0]) if after else ""), text)
        return []

    def is_whole(self, text: str) -> bool:
        """Whether ``text`` ends as a call does."""
        closing = self.closing.strip()
        return closing != "" and re.search(loose(closing) + r"\Z", text.rstrip()) is not None

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


def counted(form: CallForm, two: str | None, later: str | None) -> CallForm:
    """``form`` with what only further calls show: their numbers, and what is between them.

    ``two``: a conversation that ends with a turn of two calls of :data:`PROBE`; ``later``: one that ends with the
    second turn that makes one. None: the template refuses it.
    """
    two, later = (CALL_ID.sub("call00000", text or "") for text in (two, later))
    head = form.opening + NAME + form.named
    for match in re.finditer(r"(?<![\w.])\d+(?![\w.])", head):
        number, rest = int(match.group()), head[match.end() :]
        following = f"{head[: match.start()]}{number + 1}{rest}"
        over_turns = following in later
        if over_turns or following[min(match.start(), len(form.opening)) :] in two:
            opening, _, named = f"{head[: match.start()]}{COUNT}{rest}".partition(NAME)
            counts = "conversation" if over_turns else "turn"
            form = form.model_copy(update={"opening": opening, "named": named, "counts": counts, "first": number})
            break
    start = two.find(f'{head}{{"{KEYS[0]}"') + len(head)
    if form.style != "json" or start < len(head):
        return form
    _, length = json.JSONDecoder().raw_decode(two[start:])
    again, found, _ = two[start + length :].partition(NAME)
    _, numbered, rest = form.opening.partition(COUNT)
    if numbered:
        again = again.removesuffix(f"{form.first + 1}{rest}") + COUNT + rest
    return form.model_copy(update={"again": again}) if found else form


def loose(text: str) -> str:
    """A pattern for ``text`` with any id or number in place of those that it holds, and any white space within it."""
    if text.isspace():
        return re.escape(text)
    return r"\s*".join(r"\w+".join(map(re.escape, ANY_ID.split(part))) for part in re.split(r"\s+", text))


def common_prefix(*texts: str) -> str:
    """The longest text with which all of ``texts`` begin."""
    shortest = min(texts, key=len)
    return next((shortest[:i] for i, same in enumerate(zip(*texts, strict=False)) if len(set(same)) > 1), shortest)
