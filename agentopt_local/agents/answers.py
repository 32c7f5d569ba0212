"""How a final answer is marked in a turn, and how it is read back."""

from __future__ import annotations

from typing import Literal

from agentopt_local.boxed import last_box, whole_box
from agentopt_local.record import Record
from agentopt_local.thoughts import without_thoughts
from agentopt_local.wrapping import tagged, untagged

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
    """The answer in a turn: the last ``<answer>``, or else the last ``\\boxed{...}``; None if there is none.

    Both forms are read whatever was asked for: models that were trained on mathematics box what they mean.
    A tag or box that the end of the turn cut off counts; an empty one does not, nor does one in a thought.
    """
    text = without_thoughts(text)
    answer = tagged(text)
    answer = unboxed(answer) if answer is not None else last_box(text, "turn")
    return answer.strip() or None if answer is not None else None


def without_answer(text: str) -> str:
    """What a turn says beside its ``<answer>``."""
    return untagged(text)


def unboxed(text: str) -> str:
    """``text`` without a box (and the dollars of mathematics) that is all of it."""
    content = whole_box(text.strip().strip("$").strip())
    return text if content is None else content
