"""Graders that compare texts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentopt_local.grading import Grade, Grader, no_answer, right_or_wrong
from agentopt_local.unicode_form import normal_form
from agentopt_local.wrapping import answer_for, bare_answer

_PLAIN = str.maketrans(
    {char: f"^{digit}" for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"’": "'", "‘": "'", "“": '"', "”": '"'}
)
# A quoted text has no letter at its outer sides, unlike the apostrophe in don't.
_PIECES = re.compile(
    r"""(?P<verbatim>(?<!\w)"(?:[^"\\\n]|\\.)*+"(?!\w)|(?<!\w)'(?:[^'\\\n]|\\.)*+'(?!\w)|\\.)"""
    r"""|\s*(?P<mark>[()\[\]{},;:])\s*(?:(?P<after>[-+*/=<>|&^!]{1,2})\s+)?|\s+(?P<sign>[-+*/=<>|&^!]{1,2})\s+|\s+""",
    re.DOTALL,
)
_THOUSANDS = re.compile(r"\d,\s+\d{3}(?!\d)")


def exact(answer: str, expected: str) -> Grade:
    """Reward 1 if the texts are equal, ignoring white space at both ends. Thoughts, our tags and a box do not count."""
    answer = answer_for(expected, answer)
    return no_answer(answer) or right_or_wrong(answer.strip() == expected.strip(), answer, expected)


def normalized(answer: str, expected: str) -> Grade:
    """Reward 1 if the texts are equal, ignoring case, white space, one trailing period and Unicode form (NFKC).

    White space between two words counts as one space, and that beside brackets, commas, colons and around signs does
    not count: ``[1, 2]`` is ``[1,2]``. Inside quotation marks all of it counts. Thoughts, our tags, and Markdown, a box
    or "Answer:" around the answer do not count.
    """
    answer = bare_answer(answer, expected)
    return no_answer(answer) or right_or_wrong(same_text(answer, expected), answer, expected)


def same_text(one: str, other: str) -> bool:
    """Whether two texts differ only in case, white space that does not count, a trailing period and Unicode form."""
    return _spaced(one) == _spaced(other)


def normalize(text: str) -> str:
    """``text`` in NFKC and lower case, with single spaces and without a trailing period."""
    # Superscripts are spelled out first: NFKC would turn 5² into 52.
    text = normal_form("NFKC", text.translate(_PLAIN)).replace("\u2212", "-").casefold()
    return " ".join(text.split()).removesuffix(".").rstrip()


def _spaced(text: str) -> str:
    """The text in lower case and NFKC, without the white space that does not count."""
    text = normal_form("NFKC", text.translate(_PLAIN)).replace("\u2212", "-").casefold()
    depth = 0

    def piece(found: re.Match[str]) -> str:
        nonlocal depth
        if found["verbatim"]:
            return found[0]
        mark = found["mark"] or found["sign"] or " "
        depth += (mark in "([{") - (mark in ")]}")
        if mark == "," and depth == 0 and _THOUSANDS.match(text, max(0, found.start() - 1)):
            return ", "  # 12, 345 is not 12,345
        return mark + (found["after"] or "")

    return _PIECES.sub(piece, text).strip().removesuffix(".").rstrip()


GRADERS: Mapping[str, Grader] = {"exact": exact, "normalized": normalized}
