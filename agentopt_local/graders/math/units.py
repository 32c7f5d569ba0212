"""Units of measure and their spellings."""

from __future__ import annotations

import re

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
mph
kph kmh kmph
am
pm
"""
"""One unit per line; its first word is its name. Quantities in two different units are different answers."""

UNITS = {word: line.split()[0] for line in _SPELLINGS.split("\n") if line for word in line.split()}
"""The unit's name for each spelling."""

SHORT_UNITS = frozenset({"m", "g", "l", "s", "h", "in"})
"""Units that, outside ``\\text``, are read as variables or words unless the other answer has a unit."""

_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}


def unit_of(text: str) -> str:
    """The unit in ``text``, such as ``cm^2``; empty for a noun that is not a measure, such as ``apples``."""
    words = re.findall(
        r"[a-z]+|\^\s*\{?\s*[23]", text.casefold().replace(".", "").replace("²", "^2").replace("³", "^3")
    )
    words = [word for word in words if word not in ("the", "of", "a", "long", "tall", "old", "wide")]
    unit, power = "", ""
    for word in words:
        if word in _POWERS:
            power = _POWERS[word]
        elif word.startswith("^"):
            power = f"^{word[-1]}"
        elif word == "per":
            unit += power + "/"
            power = ""
        else:
            unit += UNITS.get(word, "") if len(word) > 1 or word in UNITS else ""
    return unit + power if unit.strip("/") else ""
