"""The grader of GSM8K: the final numbers must be equal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from agentopt_local.boxed import has_box, last_box
from agentopt_local.graders.final_answer import statements, without_text_commands
from agentopt_local.graders.stated_number import expression_value, number_in, stated_number
from agentopt_local.grading import Grade, Grader, no_answer, quote
from agentopt_local.wrapping import spoken, unwrapped

MAX_CHARS = 100_000
"""Only this much of the end of an answer is read."""

_MARK = re.compile(r"####[ \t]*([^\n]*)")
_NOTATION = re.compile(r"[\\^½¼¾⅓⅔]|\A\s*\d{1,3}(?:\s\d{3})+\s*\Z")
"""What makes a whole answer an expression. Others may be a solution, such as ``so 10 - 3``."""


def gsm8k(answer: str, expected: str) -> Grade:
    """Reward 1 if the final number of ``answer`` equals that of ``expected``, which may be a whole solution.

    Thoughts do not count. The final number is the one after ``####``; without that mark, the one in the last box or
    after "answer is"; and failing that, the last number in the text.
    """
    if missing := no_answer(answer):
        return missing
    target = final_number(expected)
    if target is None:
        return Grade(reward=0.0, reason=f"the expected answer {quote(expected)} contains no number")
    value = final_number(answer)
    if value is None:
        return Grade(reward=0.0, reason=f"{quote(answer)} contains no number; expected {_shown(target)}")
    if value == target:
        return Grade(reward=1.0, reason=f"correct: {_shown(value)}")
    return Grade(reward=0.0, reason=f"answered {_shown(value)}; expected {_shown(target)}")


def final_number(text: str) -> Fraction | None:
    """The final number of ``text``; None if it has none."""
    text = spoken(text)[-MAX_CHARS:].replace("\u2212", "-").replace("{,}", ",").replace(",\\!", ",")
    if marks := _MARK.findall(text):
        return stated_number(unwrapped(marks[-1]), first=True)
    if has_box(text):
        box = unwrapped(last_box(text, "solution") or "")
        said = next(statements(without_text_commands(box)), None)
        return stated_number(box, first=False) if said is None else stated_number(said, first=True)
    for said in statements(text, sums=True):
        value = stated_number(said, first=True)
        if value is not None:
            return value
    text = unwrapped(text)
    value = expression_value(text) if len(text) < 60 and _NOTATION.search(text) else None
    return number_in(text, first=False) if value is None else value


def _shown(value: Fraction) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"


GRADERS: Mapping[str, Grader] = {"gsm8k": gsm8k}
