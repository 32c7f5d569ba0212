"""Reading numbers, and the grader that compares them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from agentopt_local.graders.text import normalize, normalized
from agentopt_local.grading import Grade, Grader, no_answer, quote, right_or_wrong
from agentopt_local.wrapping import bare_answer

MAX_NUMBER_CHARS = 200
"""Longer texts are not read as numbers. Together with ``MAX_EXPONENT`` this keeps ``1e999999999`` out of memory."""

MAX_EXPONENT = 400

_NUMBER = re.compile(r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:e[+-]?\d{1,4}(?!\d))?", re.ASCII)

_ANOTHER_NUMBER = re.compile(r"(?<![\w^.{])[-+]?\d")
"""In a unit: ``to 15``, but not ``cm^2``."""


def numeric(answer: str, expected: str) -> Grade:
    """Reward 1 if both texts are the same number: ``1,234.50``, ``3/4``, ``1 3/4``, ``-2e-3``, ``\\frac{3}{4}``.

    Two whole numbers must be equal. Otherwise a relative error is allowed: 1e-9 if a whole number is expected, 1e-6 if
    not. A currency sign, a percent sign and the expected answer's unit are optional: 50% is 50.
    If the expected answer is not a number, the texts are compared as :func:`~agentopt_local.graders.text.normalized`
    does. Thoughts, our tags, and Markdown, a box or "Answer:" around the answer do not count.
    """
    answer = bare_answer(answer, expected)
    if missing := no_answer(answer):
        return missing
    target, unit = parse_number(expected)
    if target is None:
        return normalized(answer, expected)
    value, given_unit = parse_number(answer)
    if value is None or given_unit not in ("", unit):
        return Grade(reward=0.0, reason=f"{quote(answer)} is not a number; expected {quote(expected)}")
    return right_or_wrong(_same_number(value, target), answer, expected)


def parse_number(text: str) -> tuple[Fraction | None, str]:
    """The number that ``text`` starts with and the normalized unit after it; ``(None, "")`` if it is not a number."""
    if len(text) > MAX_NUMBER_CHARS:
        return None, ""
    text = normalize(re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)).replace("⁄", "/")
    text = re.sub(r"^\$(.*)\$$|^\\\((.*)\\\)$", lambda match: match[1] or match[2] or "", text)
    text = (
        re.sub(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))", r" \1\2/\3\4", text)
        .replace("\\", "")
        .strip()
    )
    text = re.sub(r"^([+-]?)\s*[$€£¥]\s*", r"\1", text)
    sign = -1 if text.startswith("-") else 1
    text = re.sub(r"^[+-]\s*", "", text)
    whole = re.match(r"(\d+)\s+(?=\d+\s*/\s*\d)", text)
    if whole is not None:
        text = text[whole.end() :]
    match = _NUMBER.match(text)
    if match is None:
        return None, ""
    value, rest = _fraction(match[0]), text[match.end() :].strip()
    if value is not None and (over := re.match(r"/\s*", rest)):
        match = _NUMBER.match(rest, over.end())
        denominator = _fraction(match[0]) if match else None
        value = value / denominator if denominator else None
        rest = rest[match.end() :].strip() if match else rest
    if value is None or re.match(r"[\d.,/^*+=:-]", rest) or _ANOTHER_NUMBER.search(rest):
        return None, ""
    value += int(whole[1]) if whole else 0
    return sign * value, "" if rest == "%" else rest


def _fraction(text: str) -> Fraction | None:
    mantissa, _, exponent = text.replace(",", "").partition("e")
    if abs(int(exponent or 0)) > MAX_EXPONENT:
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _same_number(value: Fraction, target: Fraction) -> bool:
    if value == target:
        return True
    if value.denominator == target.denominator == 1:
        return False
    tolerance = Fraction(1, 10**9) if target.denominator == 1 else Fraction(1, 10**6)
    return abs(value - target) <= tolerance * max(abs(target), Fraction(1, 1000))


GRADERS: Mapping[str, Grader] = {"numeric": numeric}
