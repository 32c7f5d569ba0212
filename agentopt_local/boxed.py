r"""Final answers in boxes: ``\boxed{...}``, as in solutions to mathematical problems."""

from __future__ import annotations

import re
from typing import Literal

Source = Literal["turn", "solution"]
r"""What a text is, which decides what counts as a box in it.

``turn``: what an agent writes while it works. Only ``\boxed{...}`` marks an answer, because that is the form the agent
was asked for. A box without a closing brace counts: the turn was cut off at its token limit, and the answer is what was
written until then.

``solution``: a complete text to be graded, or the data set's own solution. By MATH's rules ``\fbox{...}`` counts too,
and so does ``\boxed 5`` without braces, which extends to the end of the formula. A box without a closing brace does
not count: it is a mistake in the text.
"""

_OPENING: dict[Source, re.Pattern[str]] = {
    "turn": re.compile(r"\\boxed\s*(?=\{)"),
    "solution": re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*"),
}
_END_OF_FORMULA = re.compile(r"\$|\\\)|\\\]|\n")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is text


def last_box(text: str, source: Source) -> str | None:
    """The content of the last box in ``text``, whose braces may be nested.

    None if there is no box, or, in a solution, if the last one is not closed.
    """
    openings = list(_OPENING[source].finditer(text))
    if not openings:
        return None
    start = openings[-1].end()
    if not text.startswith("{", start):
        return _END_OF_FORMULA.split(text[start:], maxsplit=1)[0].strip()
    end = _closing_brace(text, start)
    if end is None and source == "solution":
        return None
    return text[start + 1 : end].strip()


def has_box(text: str) -> bool:
    """Whether a solution has a box, closed or not."""
    return _OPENING["solution"].search(text) is not None


def whole_box(text: str) -> str | None:
    r"""The content of ``text`` if it is one ``\boxed{...}`` and nothing else."""
    opening = _OPENING["turn"].match(text)
    return whole_group(text, opening.end()) if opening else None


def whole_group(text: str, start: int) -> str | None:
    """The content of the braces that open at ``start``; None unless they close at the end of ``text``."""
    return text[start + 1 : -1] if _closing_brace(text, start) == len(text) - 1 else None


def _closing_brace(text: str, start: int) -> int | None:
    """The index of the brace that closes the one at ``start``."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth == 0:
            return match.start()
    return None
