r"""Answers in whole sentences: ``\text{There are } 460 \text{ ways}``."""

from __future__ import annotations

import re

from agentopt_local.graders.final_answer import without_text_commands

MAX_CHARS = 400
"""Longer texts are not read as sentences."""
_WORDS = re.compile(r"[A-Za-z]{2}")
_VERBS = "is|are|was|were|equals|gives?|has|have|takes?|needs?|costs?|gets?|makes?|earns?|pays?|spends?|saves?|uses?"
_SENTENCES = (
    re.compile(rf"(?:.*\b(?:{_VERBS})\b:?|[A-Z][a-z][^:]*:)\s+(?P<said>\S.*)"),
    re.compile(r"(?:(?:so|thus|therefore|then|hence)\b[,:]?)\s+(?P<said>\S.*)", re.IGNORECASE),
    re.compile(r"(?P<said>\S.*?)\s+is\s+(?:the|our|my)\s+(?:\w+\s+)?(?:answer|solution|result|value)\b.*"),
)
_FILLER = re.compile(r"\A(?:a total of|a value of|exactly|equal to)\s+")
_AMOUNT = re.compile(
    r"-?\$?\d[\d,./]*\s+(?!(?:and|or|out|of|to|by|per|plus|minus|times|over|through|dozen|hundred|thousand|million|billion|percent)\b)[A-Za-z]+"
)
r"""All in one command: a box with a whole ``\text{12 apples}`` says 12."""
_DENIAL = re.compile(
    r"\b(?:not|no|never|none|neither|nor|if|unless|than|wrong|incorrect|false|almost|nearly|except)\b|n't\b|n’t\b",
    re.IGNORECASE,
)


def conclusion(text: str) -> str | None:
    """What a sentence says, such as ``460 ways``; None if ``text`` is not a sentence that says one thing.

    What it denies or compares ("is not 5", "is more than 5") is not what it says.
    """
    if len(text) > MAX_CHARS or not _WORDS.search(text):
        return None
    plain = " ".join(without_text_commands(text).split()).rstrip(" .!")
    if _DENIAL.search(plain):
        return None
    said = plain
    for form in reversed(_SENTENCES):
        if found := form.fullmatch(said):
            said = _FILLER.sub("", found["said"]).strip()
    return said if said != plain or _AMOUNT.fullmatch(plain) else None
