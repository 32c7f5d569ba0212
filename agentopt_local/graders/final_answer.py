"""Where in a text the final answer stands."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_MARKER = re.compile(
    r"(?:\bfinal\s+answer\b(?:\s+is)?|\banswer\s+is\b|\banswer\s*(?=:|=)|####)[ \t]*[:=]?[ \t*_]*", re.IGNORECASE
)
_LAST_MATH = re.compile(r"\$([^$]{1,400})\$[\s.]*\Z|\\\(([^()]{1,400})\\\)[\s.]*\Z")


def last_box(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` or ``\fbox{...}`` holds; None if there is none or it is not closed.

    By MATH's own rule ``\boxed 5`` without braces holds what follows, up to the end of the formula.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if not text.startswith("{", start):
        return re.split(r"\$|\\\)|\\\]|\n", text[start:], maxsplit=1)[0].strip()
    depth = 0
    position = start
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 2
            continue
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[start + 1 : position].strip()
        position += 1
    return None


def has_box(text: str) -> bool:
    """Whether ``text`` boxes anything, closed or not."""
    return _BOX.search(text) is not None


def final_answer(text: str) -> str:
    """The last box; without one what follows "answer is" or "####"; the formula a sentence ends with; or all of it.

    Empty where the last box is empty or not closed.
    """
    if has_box(text):
        box = last_box(text) or ""
        return final_answer(box) if has_box(box) else box
    markers = list(_MARKER.finditer(text))
    if markers:
        rest = text[markers[-1].end() :].strip()
        line = rest.split("\n", 1)[0].strip().strip("*").strip()
        if line:
            return _sentence(line)
    text = text.strip()
    if re.search(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}", text.split("$")[0]) and (found := _LAST_MATH.search(text)):
        return (found[1] or found[2]).strip()
    return text


def _sentence(line: str) -> str:
    """The first sentence of ``line``, where a further one follows."""
    return re.split(r"(?<=[\w$)}\]])\.\s+(?=[A-Z])", line, maxsplit=1)[0]
