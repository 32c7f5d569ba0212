"""Plain text and special tokens as Lark, in llguidance's dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence


def pieces(text: str, marks: Mapping[str, int]) -> Iterator[str | int]:
    """``text`` as pieces of plain text and ids of special tokens. ``marks``: the ids by the tokens' text."""
    at = 0
    for match in re.finditer("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)", text):
        if match.start() > at:
            yield text[at : match.start()]
        yield marks[match.group()]
        at = match.end()
    if at < len(text):
        yield text[at:]


def atoms(parts: Sequence[str | int]) -> str:
    """Pieces as a sequence in Lark."""
    return " ".join(f"<[{each}]>" if isinstance(each, int) else json.dumps(each) for each in parts)


def literal(text: str, marks: Mapping[str, int]) -> str:
    """``text`` as a sequence in Lark."""
    return atoms(list(pieces(text, marks)))


def regex(text: str) -> str:
    """A pattern for ``text`` itself, for use between slashes."""
    return re.escape(text).replace("/", "\\/").replace("\\\n", "\\n")
