"""Fenced blocks in what a model writes, paired line by line."""

from __future__ import annotations

import ast
import re
import warnings
from typing import NamedTuple

from agentopt_local.unicode_form import normal_marks

_MARKS = re.compile(
    r"^(?P<lead>(?:[^`\n]|`{1,2}(?!`))*+)(?P<marks>`{3,})(?P<info>[^`\n]*)$"
    r"|^(?P<lead_>[^\S\n]*)(?P<marks_>~{3,})(?P<info_>[^\n]*)$",
    re.MULTILINE,
)
_LANGUAGE = re.compile(r"\s*\{?\.?([\w+#-]+)(?P<more>.*)", re.DOTALL)
_MARGIN = re.compile(r"[\s>]*\Z|\s*(?:[-*+]|\d{1,3}[.)])\s+\Z")
"""What may precede a fence that is alone in its line: white space, a quotation's or a list item's mark."""
_PYTHON = re.compile(r"i?py(?:thon|con)?-?[0-9]*|tool_code")
_NAMED = re.compile(rf"{_PYTHON.pattern}|json|text|bash|sh|xml|tool_calls?")
_QUOTED = re.compile(r"#[^\n]*|(?P<open>\"\"\"|''')|\"(?:[^\"\\\n]|\\.)*+\"?|'(?:[^'\\\n]|\\.)*+'?", re.DOTALL)
_CLOSING = {'"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*+"""', re.DOTALL)}
_CLOSING["'''"] = re.compile(r"(?:[^'\\]|\\.|'(?!''))*+'''", re.DOTALL)
MAX_CHECKED_CHARS = 50_000
"""Longest code that is compiled to see whether it is Python."""


class Block(NamedTuple):
    """A fenced block."""

    language: str
    """In small letters; empty if its fence names none."""
    text: str
    """Without the indentation of its first line, and with line breaks as in Python."""
    start: int
    """Offset of the fence that opens it."""
    body: int
    """Offset of what follows that line."""
    end: int
    """Offset behind the fence that closes it, or of the end of the text."""
    closed: bool

    @property
    def is_python(self) -> bool:
        """Whether its fence says that it is Python."""
        return _PYTHON.fullmatch(self.language) is not None


class _Fence(NamedTuple):
    lead: str
    marks: str
    info: str
    start: int
    end: int

    @property
    def alone(self) -> bool:
        return _MARGIN.match(self.lead) is not None

    @property
    def language(self) -> str:
        """Empty also if prose follows the marks."""
        found = _LANGUAGE.match(self.info)
        if found is None:
            return ""
        name, more = found[1].lower(), found["more"].strip()
        attributes = self.alone if not more else more[0] in "{}.:=" or "=" in more
        return name if attributes or found[0].lstrip().startswith(("{", ".")) or _NAMED.fullmatch(name) else ""


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of ``text``, in order. Takes linear time.

    A fence without a language closes the block that is open, and opens one if none is; one with a language always opens
    one, since models forget to close. In Python, fences inside a string of several lines are part of it, provided that
    the block is Python then. A block that is not closed goes on to the end.
    """
    fences = [_fence(match) for match in _MARKS.finditer(text)]
    blocks: list[Block] = []
    track = True
    number = 0
    while number < len(fences):
        opening = fences[number]
        if not (opening.alone or opening.language or number + 1 < len(fences)):
            break  # it would close a block
        first = _closing(text, fences, number, strings=False)
        closing = first
        if track and first < len(fences) and (not opening.language or _PYTHON.fullmatch(opening.language)):
            closing = _closing(text, fences, number, strings=True)
            if closing != first and not is_python(_text(text, opening, fences, closing)):
                closing, track = first, False  # once, or the time could grow with the square of the length
        ended = closing < len(fences)
        reopens = ended and fences[closing].language != ""
        end = len(text) if not ended else fences[closing].start if reopens else fences[closing].end
        body = min(opening.end + 1, len(text))
        block = _text(text, opening, fences, closing)
        blocks.append(Block(opening.language, block, opening.start, body, end, ended))
        number = closing if reopens else closing + 1
    return blocks


def _fence(match: re.Match[str]) -> _Fence:
    tilde = "_" if match["marks"] is None else ""
    lead, marks, info = (match[name + tilde] for name in ("lead", "marks", "info"))
    return _Fence(lead, marks, info, match.start("marks" + tilde), match.end())


def _closing(text: str, fences: list[_Fence], number: int, *, strings: bool) -> int:
    """The number of the fence that closes the one with this number, or opens the next block."""
    opening = fences[number]
    at, inside = opening.end + 1, ""
    for index in range(number + 1, len(fences)):
        fence = fences[index]
        if fence.marks[0] != opening.marks[0] or len(fence.marks) < len(opening.marks):
            continue
        if not fence.alone and fence.info.strip() and not fence.language:
            continue
        if strings:
            inside = _string_state(text, at, fence.start, inside)
            at = fence.start
            if inside:
                continue
        return index
    return len(fences)


def _string_state(text: str, at: int, end: int, inside: str) -> str:
    """The quotation marks of the string that is open at ``end``; ``inside``: of the one that is at ``at``."""
    while at < end:
        if len(inside) == 1:  # its fence is in the middle of the line
            at, inside = text.find("\n", at, end), ""
            if at < 0:
                return inside
        if inside:
            closing = _CLOSING[inside].match(text, at, end)
            if closing is None:
                return inside
            at, inside = closing.end(), ""
        opening = _QUOTED.search(text, at, end)
        if opening is None:
            return ""
        at, inside = opening.end(), opening["open"] or ""
        quote = opening[0][0]
        if at == end and not inside and quote in "\"'" and (len(opening[0]) == 1 or opening[0][-1] != quote):
            return quote
    return inside


def _text(text: str, opening: _Fence, fences: list[_Fence], closing: int) -> str:
    end = fences[closing].start if closing < len(fences) else len(text)
    body = text[min(opening.end + 1, len(text)) : end]
    if closing < len(fences) and fences[closing].alone:
        body = body[: body.rfind("\n") + 1]
    text = dedented(body.replace("\r\n", "\n"), quoted=">" in opening.lead and opening.alone)
    if text.startswith(">>> "):  # a session: what it prints is not part of its code
        return "".join(f"{line[4:]}\n" for line in text.split("\n") if line[:4].rstrip() in (">>>", "..."))
    return text


def dedented(text: str, *, quoted: bool = False) -> str:
    """``text`` without the indentation of its first line that is not blank; ``quoted``: and without marks ``>``."""
    lines = text.split("\n")
    if quoted:
        lines = [re.sub(r"^\s{0,9}> ?", "", line) for line in lines]
    first = next((line for line in lines if line.strip()), "")
    width = len(first) - len(first.lstrip())
    if not width:
        return "\n".join(lines)
    return "\n".join(line[min(width, len(line) - len(line.lstrip())) :] for line in lines)


def is_python(text: str) -> bool:
    """Whether ``text`` can be parsed as Python."""
    return _tree(text) is not None


def does_something(text: str) -> bool:
    """Whether ``text`` is Python that computes something, and not a value or a word."""
    tree = _tree(text)
    return tree is not None and any(
        isinstance(node, ast.Call | ast.BinOp | ast.Compare | ast.stmt) and not isinstance(node, ast.Expr)
        for node in ast.walk(tree)
    )


def _tree(text: str) -> ast.Module | None:
    if len(text) > MAX_CHECKED_CHARS or normal_marks(text) != text:  # Python's time for marks in a row is quadratic
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
