"""Words that answers are made of: units with their spellings, numbers, connectors, and phrases that mean a set."""

from __future__ import annotations

import re


def words(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


def _ordered(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_UNITS = """
mm millimeter millimeters millimetre millimetres
cm centimeter centimeters centimetre centimetres
meter m meters metre metres
km kilometer kilometers kilometre kilometres
inch in inches
foot ft feet
yard yd yards yds
mile mi miles
acre acres
mg milligram milligrams
gram g grams
kg kilogram kilograms
ounce oz ounces
pound lb lbs pounds
ton tons
ml milliliter milliliters millilitre millilitres
liter l liters litre litres
gallon gal gallons
quart qt quarts
pint pints
second s sec secs seconds
minute min mins minutes
hour h hr hrs hours
day days
week weeks
month months
year yr yrs years
dollar dollars usd
cent cents
euro euros
percent percentage
degree degrees deg
radian radians rad
mph
kph kmh kmph
am
pm
"""
"""One line per unit; the first word names it. Quantities in two of these units are different answers."""

UNITS = {word: line.split()[0] for line in _UNITS.split("\n") if line for word in line.split()}

SHORT_UNITS = frozenset({"m", "g", "l", "s", "h", "in"})
"""Units that, outside of ``\\text``, are read as variables or words unless the expected answer has them."""

_DIMENSIONS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}

CONNECTORS = frozenset({"or", "and"})

WORDS = words("or and no yes all none odd even one two six ten the is of not dne") | {
    word for word in UNITS if 1 < len(word) < 4 and word not in SHORT_UNITS
}
"""Runs of two or three letters that are words, not products of variables."""

_ONES = _ordered(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = _ordered("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = _ordered("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")

PHRASES = {
    "nosolution": "empty", "nosolutions": "empty", "norealsolution": "empty", "norealsolutions": "empty",
    "emptyset": "empty", "theemptyset": "empty", "none": "empty", "nosuchnumber": "empty", "nosuchnumbers": "empty",
    "norealnumbers": "empty", "norealroots": "empty",
    "undefined": "undefined", "dne": "undefined", "doesnotexist": "undefined", "doesntexist": "undefined",
    "allreals": "reals", "allrealnumbers": "reals", "reals": "reals", "realnumbers": "reals",
    "allrealnumber": "reals", "allrealvalues": "reals",
    "infinitelymany": "infinitely many", "infinitelymanysolutions": "infinitely many",
}  # fmt: skip
"""Phrases, letters only, that mean the same."""


def canonical_text(text: str) -> str:
    """``text`` for comparison: no case, white space or punctuation, but for signs that carry meaning."""
    text = re.sub(r"\b(?:the|an?)\s+(?=\w)", "", text.casefold().strip())
    text = re.sub(r"^\(?(?:option|choice|answer)\b\s*", "", text)
    return re.sub(r"[^\w+\-./=<>:*^]|(?<!\d)\.|\.(?!\d)|_", "", text)


def number_word(text: str) -> int | None:
    """The number that a word such as ``twelve``, ``twenty-five``, ``third`` or ``3rd`` stands for."""
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


def unit_of(text: str) -> str:
    """The unit that ``text`` names, such as ``cm^2``; empty for a noun that is no measure, such as ``apples``."""
    words = re.findall(
        r"[a-z]+|\^\s*\{?\s*[23]", text.casefold().replace(".", "").replace("²", "^2").replace("³", "^3")
    )
    words = [word for word in words if word not in ("the", "of", "a", "long", "tall", "old", "wide")]
    unit, power = "", ""
    for word in words:
        if word in _DIMENSIONS:
            power = _DIMENSIONS[word]
        elif word.startswith("^"):
            power = f"^{word[-1]}"
        elif word == "per":
            unit += power + "/"
            power = ""
        else:
            unit += UNITS.get(word, "") if len(word) > 1 or word in UNITS else ""
    return unit + power if unit.strip("/") else ""
