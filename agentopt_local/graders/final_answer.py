"""Finding the final answer in a text."""

from __future__ import annotations

import re

from agentopt_local.boxed import has_box, last_box

_MARKER = re.compile(
    r"(?:\bfinal\s+answer\b(?:\s+is)?|\banswer\s+is\b|\banswer\s*(?=:|=)|####)[ \t]*[:=]?[ \t*_]*", re.IGNORECASE
)
MAX_CHARS = 100_000
"""Only this much of the end of a text is read."""
_SENTENCE = re.compile(r"[A-Za-z]{2}\s+[A-Za-z]{2}")
_LAST_FORMULA = re.compile(r"\$([^$]{1,400})\$[\s.]*\Z|\\\(([^()]{1,400})\\\)[\s.]*\Z")


def final_answer(text: str) -> str:
    """The content of the last box.

    Without a box: what follows "answer is" or "####"; failing that, the formula that ends a sentence; failing that, all
    of the text. Empty if the last box is empty or not closed. Only the last ``MAX_CHARS`` characters are read.
    """
    text = text[-MAX_CHARS:]
    if has_box(text):
        box = last_box(text, "solution") or ""
        return final_answer(box) if has_box(box) else box
    markers = list(_MARKER.finditer(text))
    if markers:
        rest = text[markers[-1].end() :].strip()
        line = rest.split("\n", 1)[0].strip().strip("*").strip()
        if line:
            return _first_sentence(line)
    text = text.strip()
    if _SENTENCE.search(text.split("$", 1)[0]) and (found := _LAST_FORMULA.search(text)):
        return (found[1] or found[2]).strip()
    return text


def _first_sentence(line: str) -> str:
    """``line`` up to the end of its first sentence, if another follows."""
    return re.split(r"(?<=[\w$)}\]])\.\s+(?=[A-Z])", line, maxsplit=1)[0]
