"""Numbers in words."""

from __future__ import annotations

import re

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth",
)  # fmt: skip
_MORE = frozenset((
    "or", "and", "to", "of", "half", "quarter", "quarters", "halves", "thirds", "point", "hundred", "thousand",
    "million", "billion", "dozen", "less", "more", "fewer",
))  # fmt: skip
"""What makes a number of the one before, or another."""


def counted(text: str) -> int | None:
    """The number in ``twelve`` or ``twelve red apples``; None for other text, also for "two or three"."""
    words = text.split()
    for length in range(min(2, len(words)), 0, -1):
        number, rest = number_word(" ".join(words[:length])), words[length:]
        if number is not None:
            others = any(word in _MORE or number_word(word) is not None for word in map(str.casefold, rest))
            return None if others or len(rest) > 3 else number
    return number_word(text)


def number_word(text: str) -> int | None:
    """The number named by a word such as ``twelve``, ``twenty-five``, ``third`` or ``3rd``; None for other text."""
    word = text.casefold().strip()
    if match := re.fullmatch(r"(\d{1,6})\s*(?:st|nd|rd|th)", word):
        return int(match[1])
    for names in (_ONES, _ORDINALS):
        if word in names:
            return names.index(word) + (names is _ORDINALS)
    if word in ("hundred", "one hundred", "a hundred"):
        return 100
    tens, _, ones = re.sub(r"\s*-\s*|\s+", "-", word).partition("-")
    if tens in _TENS and (not ones or ones in _ONES[1:10]):
        return 20 + 10 * _TENS.index(tens) + (_ONES.index(ones) if ones else 0)
    return None
