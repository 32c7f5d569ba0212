"""The number that a statement gives as its result."""

from __future__ import annotations

import re
from fractions import Fraction

from agentopt_local.graders.final_answer import without_text_commands
from agentopt_local.graders.math.answer_parser import parse_answer
from agentopt_local.graders.math.evaluator import Budget, Evaluator
from agentopt_local.graders.math.failures import UnboundedError, UndefinedError, UnparsableError
from agentopt_local.graders.number_words import counted
from agentopt_local.graders.numbers import MAX_NUMBER_CHARS, parse_number

MAX_EXPRESSION_CHARS = 200
"""Longer texts are not read as expressions."""

_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![)\w])-[ \t]?)?\\?[$€£]?[ \t]?-?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[ \t]+\d{1,9}/\d{1,9}|/\d{1,9}(?![\d/]))?"
)
_FRACTION = re.compile(
    r"\\[dt]?frac\s{0,3}(?:\{\s{0,3}(\d{1,9})\s{0,3}\}|(\d))\s{0,3}(?:\{\s{0,3}(\d{1,9})\s{0,3}\}|(\d))"
)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\s{0,3}\^\s{0,3}(?:\{\s{0,3}-?\d{1,3}\s{0,3}\}|-?\d)")
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_ASIDE = re.compile(r"(?<=[\w%.$}])\s\((?![\d\s.]{1,20}\))[^()]*\)(?!\s{0,3}[=*+/×÷-])")
_REJECTED = re.compile(r"[,;]?\s(?:not|instead|rather|but)\s")
_IN_WORDS = (
    (re.compile(r"\bmultiplied by\b"), "*"), (re.compile(r"\bdivided by\b"), "/"),
    (re.compile(r"(?:\A\s*minus|\bnegative)\s{1,3}(?=\\?[$€£]?[\d.])", re.IGNORECASE), "-"),
)  # fmt: skip
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALE = re.compile(rf"[ \t]{{1,3}}({'|'.join(_SCALES)})\b", re.IGNORECASE)
_RANGE = re.compile(r"[\s$]{0,3}[\d.,]+\s?(?:to|or)\s?\$?[\d.,]+(?:\s[A-Za-z]+)?\Z")
_EQUALS = re.compile(r"=|≈|\\approx\b|\bequals\b")
_OF_ONE_THING = re.compile(r"[\s$]{0,3}-?[\d,.]+\s{0,3}(?:\\[A-Za-z]+\{?\s{0,3})?(?!and\b|or\b|to\b)[A-Za-z]")


def stated_number(text: str, *, first: bool) -> Fraction | None:
    """The number that ``text`` states as its result; None if it states none.

    That is the value of an expression or of the right-hand side of an equation: 72 of ``8 * 9 = 72``. Of other texts it
    is the first number, or the last one; exponents of units and what stands in brackets beside a number do not count.
    """
    text = _signed(_CALCULATION.sub("", text).strip().rstrip(" .!"))
    if _RANGE.match(text):
        return None
    value = expression_value(_ASIDE.sub("", text))
    if value is not None:
        return value
    text = _REJECTED.split(_ASIDE.sub("", without_text_commands(text)), maxsplit=1)[0]
    *_, right = sides = _EQUALS.split(text)
    if len(sides) > 1:
        value = expression_value(right)
        value = number_in(right, first=True) if value is None else value
        if value is not None:
            return value
    return number_in(text, first=first or _OF_ONE_THING.match(text) is not None)


def expression_value(text: str) -> Fraction | None:
    """The value of an expression without unknowns, perhaps with a unit, or of an equation; None for other texts."""
    if len(text) > MAX_EXPRESSION_CHARS:
        return None
    try:
        answer = parse_answer(re.sub(r"\\?[$€£]", "", text), short_units=True)
        if len(answer.parts) != 1:
            return None
        node = answer.parts[0].node
        if node[0] == "rel" and set(node[1]) <= {"=", "~="}:
            node = node[2][-1]
        value = Evaluator(Budget(), {}).value(node)
    except (UnparsableError, UndefinedError, UnboundedError, RecursionError, KeyError):
        return None
    return value if isinstance(value, Fraction) else None


def number_in(text: str, *, first: bool) -> Fraction | None:
    """The first or last number written in ``text``; failing that, one that is all of it and written in words."""
    text = _signed(text)
    text = without_unit_powers(_FRACTION.sub(lambda found: f" {found[1] or found[2]}/{found[3] or found[4]}", text))
    found = list(_NUMBER.finditer(text))
    for match in found if first else reversed(found):
        token = re.sub(r"[\\$€£]", "", match[0]).strip()
        sign = -1 if token.startswith("-") else 1
        value, _ = parse_number(token.lstrip("- ")[:MAX_NUMBER_CHARS])
        if value is not None:
            scale = _SCALE.match(text, match.end())
            return sign * value * (_SCALES[scale[1].lower()] if scale else 1)
    word = counted(re.sub(r"[^\w\s-]", "", text)) if len(text) < 40 else None
    return Fraction(word) if word is not None else None


def _signed(text: str) -> str:
    for words, sign in _IN_WORDS:
        text = words.sub(sign, text)
    return text


def without_unit_powers(text: str) -> str:
    """``text`` without exponents after letters and braces: those of ``cm^2`` and ``\\text{m}^{2}``."""
    return _UNIT_POWER.sub("", text)
