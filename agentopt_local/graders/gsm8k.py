"""The grader of GSM8K: the final numbers must be equal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from agentopt_local.boxed import has_box, last_box
from agentopt_local.graders.number_words import number_word
from agentopt_local.graders.numbers import MAX_NUMBER_CHARS, parse_number
from agentopt_local.grading import Grade, Grader, no_answer, quote

MAX_CHARS = 100_000
"""Only this much of the end of an answer is read."""

_MARK = re.compile(r"####[ \t]*([^\n]*)")
_SAID = re.compile(r"(?:answer|total|result)(?:\s+is|\s*[:=])[ \t*_]*([^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![)\w])-[ \t]?)?\\?[$€£]?[ \t]?-?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[ \t]+\d{1,9}/\d{1,9}|/\d{1,9}(?![\d/]))?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d{1,9})\}\s*\{(\d{1,9})\}")


def gsm8k(answer: str, expected: str) -> Grade:
    """Reward 1 if the final number of ``answer`` equals that of ``expected``, which may be a whole solution.

    The final number is the one after ``####``; without that mark, the one in the last box or after "answer is"; and
    failing that, the last number in the text.
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
    text = text[-MAX_CHARS:].replace("\u2212", "-").replace("{,}", ",").replace(",\\!", ",")
    if marks := _MARK.findall(text):
        return _last_number(marks[-1], first=True)
    if has_box(text):
        return _last_number(last_box(text, "solution") or "")
    for said in reversed(_SAID.findall(text)):
        value = _last_number(re.split(r"(?<=[\w$%])\.\s+(?=[A-Z])", said, maxsplit=1)[0], first=True)
        if value is not None:
            return value
    return _last_number(text)


def _last_number(text: str, *, first: bool = False) -> Fraction | None:
    text = _FRACTION.sub(r" \1/\2", text)
    found = [match[0] for match in _NUMBER.finditer(text)]
    for raw in found if first else reversed(found):
        token = re.sub(r"[\\$€£]", "", raw).strip()
        sign = -1 if token.startswith("-") else 1
        value, _ = parse_number(token.lstrip("- ")[:MAX_NUMBER_CHARS])
        if value is not None:
            return sign * value
    word = number_word(re.sub(r"[^\w\s-]", "", text)) if len(text) < 40 else None
    return Fraction(word) if word is not None else None


def _shown(value: Fraction) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"


GRADERS: Mapping[str, Grader] = {"gsm8k": gsm8k}
