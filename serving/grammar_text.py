"""Plain text and special tokens as Lark, in llguidance's dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence


class Marks(dict[str, int]):
    """Special tokens: their ids by their text. Some tokenizers have hundreds, and grammars split texts at them."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        super().__init__(ids)
        self.pattern = re.compile("|".join(map(re.escape, sorted(ids, key=len, reverse=True))) or r"(?!)")
        """One of them."""


def pieces(text: str, marks: Marks) -> Iterator[str | int]:
    """``text`` as pieces of plain text and ids of special tokens."""
    at = 0
    for match in marks.pattern.finditer(text):
        if match.start() > at:
            yield text[at : match.start()]
        yield marks[match.group()]
        at = match.end()
    if at < len(text):
        yield text[at:]


def atoms(parts: Sequence[str | int]) -> str:
    """Pieces as a sequence in Lark."""
    return " ".join(f"<[{each}]>" if isinstance(each, int) else json.dumps(each) for each in parts)


def literal(text: str, marks: Marks) -> str:
    """``text`` as a sequence in Lark."""
    return atoms(list(pieces(text, marks)))


def regex(text: str) -> str:
    """A pattern for ``text`` itself, for use between slashes."""
    return re.escape(text).replace("/", "\\/").replace("\\\n", "\\n")
