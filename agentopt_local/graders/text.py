"""Graders that compare texts."""

from __future__ import annotations

from collections.abc import Mapping

from agentopt_local.grading import Grade, Grader, no_answer, right_or_wrong
from agentopt_local.unicode_form import normal_form

_POWERS = str.maketrans({char: f"^{digit}" for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})


def exact(answer: str, expected: str) -> Grade:
    """Reward 1 if the texts are equal, ignoring white space at both ends."""
    return no_answer(answer) or right_or_wrong(answer.strip() == expected.strip(), answer, expected)


def normalized(answer: str, expected: str) -> Grade:
    """Reward 1 if the texts are equal, ignoring case, white space, one trailing period and Unicode form (NFKC)."""
    return no_answer(answer) or right_or_wrong(normalize(answer) == normalize(expected), answer, expected)


def normalize(text: str) -> str:
    """``text`` in NFKC and lower case, with single spaces and without a trailing period."""
    # Superscripts are spelled out first: NFKC would turn 5² into 52.
    text = normal_form("NFKC", text.translate(_POWERS)).replace("\u2212", "-").casefold()
    return " ".join(text.split()).removesuffix(".").rstrip()


GRADERS: Mapping[str, Grader] = {"exact": exact, "normalized": normalized}
