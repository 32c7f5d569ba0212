"""Suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 100
"""Characters of a name that are compared: comparing takes time that grows with the square of their number."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the known name closest to ``name``, or an empty string if none is close."""
    nearest = difflib.get_close_matches(name[:LONGEST], [each[:LONGEST] for each in known], n=1, cutoff=0.5)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""
