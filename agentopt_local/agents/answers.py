"""How a final answer is marked in a turn, and how it is read back."""

from __future__ import annotations

import re
from typing import Literal

from agentopt_local.record import Record

_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_BOX = re.compile(r"\\boxed\s*\{")

AnswerFormName = Literal["tags", "boxed"]


class AnswerForm(Record):
    """What stands around an answer."""

    opening: str
    closing: str
    pattern: str
    """The whole answer as a regular expression, for constrained turns."""


FORMS: dict[AnswerFormName, AnswerForm] = {
    "tags": AnswerForm(opening="<answer>", closing="</answer>", pattern=r"<answer>[^<\n]+</answer>"),
    "boxed": AnswerForm(opening="\\boxed{", closing="}", pattern=r"\\boxed\{[^\n]+\}"),
}


def read_answer(text: str) -> str | None:
    """The answer in a turn: the first ``<answer>``, or else the last ``\\boxed{...}``; None if there is none.

    Both forms are read whatever was asked for: models that were trained on mathematics box what they mean.
    A tag or box that the end of the turn cut off counts; an empty one does not.
    """
    tag = _TAG.search(text)
    answer = unboxed(tag[1]) if tag else last_box(text)
    return answer.strip() or None if answer is not None else None


def without_answer(text: str) -> str:
    """What a turn says beside its ``<answer>``."""
    return _TAG.sub("", text).strip()


def unboxed(text: str) -> str:
    """``text`` without a box (and the dollars of mathematics) that is all of it."""
    inner = text.strip().strip("$").strip()
    match = _BOX.match(inner)
    return box_content(inner, match.end()) if match and _closes_at(inner, match.end()) == len(inner) - 1 else text


def last_box(text: str) -> str | None:
    """The content of the last ``\\boxed{...}``, whose braces may nest; None if there is none."""
    starts = [match.end() for match in _BOX.finditer(text)]
    return box_content(text, starts[-1]) if starts else None


def box_content(text: str, start: int) -> str:
    """What stands from ``start``, just behind an opening brace, to the brace that closes it, or to the end."""
    end = _closes_at(text, start)
    return text[start:] if end is None else text[start:end]


def _closes_at(text: str, start: int) -> int | None:
    depth = 1
    for match in re.compile(r"(?<!\\)[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return None
