"""Units of measure and their spellings."""

from __future__ import annotations

import re
from collections import Counter

_SPELLINGS = """
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
celsius
fahrenheit
kelvin
am
pm
"""
"""One unit per line; its first word is its name. Quantities in two different units are different answers."""

UNITS: dict[str, str] = {word: line.split()[0] for line in _SPELLINGS.split("\n") if line for word in line.split()}
"""The unit's name for each spelling."""

SHORT_UNITS = frozenset({"m", "g", "l", "s", "h", "in", "cc"})
"""Units that, outside ``\\text``, are read as variables or words unless the other answer has a unit."""

_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
COMPOUND_UNITS = {
    "mph": "mile per hour", "kph": "km per hour", "kmh": "km per hour", "kmph": "km per hour", "kmhr": "km per hour",
    "mpg": "mile per gallon", "fps": "foot per second", "cc": "cm ^3", "sqft": "foot ^2",
}  # fmt: skip
"""Units with a name of their own, in terms of others."""

_FILLERS = frozenset({"the", "of", "long", "tall", "old", "wide", "in"})
_WORD = re.compile(r"[a-z]+|/|\^\s*\{?\s*-?[1-9]")
MAX_WORDS = 20


def unit_of(text: str) -> str:
    """The unit in ``text`` in one spelling, such as ``cm^2`` or ``hour^-1 mile``.

    Empty for a noun that is not a measure, such as ``apples``.
    """
    text = text.casefold().replace(".", "").replace("per cent", "percent").replace("²", "^2").replace("³", "^3")
    words = [word for each in _WORD.findall(text) for word in COMPOUND_UNITS.get(each, each).split()]
    exponents: Counter[str] = Counter()
    sign, power, last, step = 1, 1, "", 0
    for index, word in enumerate(words[:MAX_WORDS]):
        between = word in ("a", "an") and last and words[index + 1 : index + 2] and words[index + 1] in UNITS
        if word in ("per", "/") or between:
            sign, last = -1, ""
        elif word.startswith("^") or (word in ("squared", "cubed") and last):
            if last:
                factor = int(word.lstrip("^{ ")) if word.startswith("^") else _POWERS[word]
                exponents[last] += step * (factor - 1)
        elif word in _POWERS:
            power = _POWERS[word]
        elif word in UNITS and not (word in _FILLERS and last):
            last, step = UNITS[word], sign * power
            exponents[last] += step
            power = 1
        elif word not in _FILLERS:
            last, power = "", 1
    if exponents.keys() & {"celsius", "fahrenheit"}:
        exponents.pop("degree", None)
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in sorted(exponents.items()) if power)


def same_unit(one: str, other: str) -> bool:
    """Whether two quantities may have the same unit: it may be left out, as may the scale of a temperature."""
    if not one or not other or one == other:
        return True
    return "degree" in (one, other) and {one, other} <= {"degree", "celsius", "fahrenheit"}
