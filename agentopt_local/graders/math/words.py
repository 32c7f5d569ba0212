"""English in answers: words that join parts, words that are not products of variables, and phrases with a meaning."""

from __future__ import annotations

import re

from agentopt_local.graders.math.units import COMPOUND_UNITS, SHORT_UNITS, UNITS

CONNECTORS = frozenset({"or", "and"})

SHORT_WORDS = {word for word in UNITS if 1 < len(word) < 4 and word not in SHORT_UNITS} | {
    "per", *(word for word in COMPOUND_UNITS if len(word) > 2),
    "or", "and", "no", "yes", "not", "all", "none", "odd", "even", "one", "two", "six", "ten", "the", "is", "of", "dne",
}  # fmt: skip
"""Runs of two to four letters that are words, not products of variables."""

PHRASES = {
    "nosolution": "empty", "nosolutions": "empty", "norealsolution": "empty", "norealsolutions": "empty",
    "emptyset": "empty", "theemptyset": "empty", "none": "empty", "nosuchnumber": "empty", "nosuchnumbers": "empty",
    "norealnumbers": "empty", "norealroots": "empty",
    "undefined": "undefined", "dne": "undefined", "doesnotexist": "undefined", "doesntexist": "undefined",
    "allreals": "reals", "allrealnumbers": "reals", "reals": "reals", "realnumbers": "reals",
    "allrealnumber": "reals", "allrealvalues": "reals",
    "infinitelymany": "infinitely many", "infinitelymanysolutions": "infinitely many",
}  # fmt: skip
"""Phrases, reduced to their letters, and what they mean."""


def canonical_text(text: str) -> str:
    """``text`` for comparison: without case, white space, articles, and punctuation other than mathematical signs."""
    text = re.sub(r"\b(?:the|an?)\s+(?=\w)", "", text.casefold().strip())
    text = re.sub(r"^\(?(?:option|choice|answer)\b\s*", "", text)
    return re.sub(r"[^\w+\-./=<>:*^]|(?<!\d)\.|\.(?!\d)|_", "", text)
