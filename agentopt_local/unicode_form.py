"""Unicode's normal forms in linear time."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

MAX_MARKS = 30
"""Combining characters kept after one letter, as in Unicode's stream-safe text format (UAX #15). They are sorted by
insertion, in time that grows with the square of their number; no language needs more than a few."""

_LONG = re.compile(f"[\u0300-\U0010ffff]{{{MAX_MARKS + 1},}}")


def normal_form(form: Literal["NFKC", "NFKD"], text: str) -> str:
    """``text`` in a normal form, without the combining characters beyond the 30th in a row."""
    return unicodedata.normalize(form, normal_marks(text))


def normal_marks(text: str) -> str:
    """``text`` without the combining characters beyond the 30th in a row."""
    return _LONG.sub(lambda run: _trimmed(run[0]), text)


def _trimmed(run: str) -> str:
    kept: list[str] = []
    marks = 0
    for char in run:
        marks = marks + 1 if _is_mark(char) else 0
        if marks <= MAX_MARKS:
            kept.append(char)
    return "".join(kept)


@lru_cache(maxsize=4096)
def _is_mark(char: str) -> bool:
    """Whether a character belongs to the letter before it, also once it is decomposed."""
    return unicodedata.combining(unicodedata.normalize("NFKD", char)[0]) != 0
