"""Answers as tokens, the same for LaTeX and plain notation: without spacing and style, with numbers and words."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from agentopt_local.graders.math.failures import UnparsableError
from agentopt_local.graders.math.latex_macros import (
    COMMANDS,
    CONSTANTS,
    DROPPED,
    FUNCTIONS,
    GREEK,
    MATH_STYLES,
    OPS,
    PLAIN,
    TEXT_COMMANDS,
)
from agentopt_local.graders.math.preparation import prepared
from agentopt_local.graders.math.units import SHORT_UNITS
from agentopt_local.graders.math.words import CONNECTORS, SHORT_WORDS

MAX_CHARS = 4000
"""Longer answers are only compared as text."""
MAX_TEXTS = 20
"""Most ``\\text{...}`` inside one another."""


class Token(NamedTuple):
    """One token. Kinds: num, sym, text, op, fn, cmd, const, env."""

    kind: str
    value: str
    space: bool = False
    """Whether white space came before it."""


_SCAN = re.compile(
    r"(?P<space>\s+|~|\\[,:;> ]|\\!)|(?P<cmd>\\[A-Za-z]+)|(?P<esc>\\.)"
    r"|(?P<num>\d+\.\d+|\d+\.(?=\\(?:overline|dot)\b)|\d+|\.\d+)"
    r"|(?P<word>[A-Za-z]+)|(?P<rel><=|>=|!=|==|\*\*|:=|\+/-)|(?P<char>.)",
    re.DOTALL,
)


_NESTED = re.compile(r"\s*\\(?:text\w{0,8}|mbox|emph|math\w{2})\s*\{[^{}]*\}\s*")


def tokenize(text: str, *, thousands: bool = True, short_units: bool = False) -> list[Token]:
    r"""The tokens of an answer.

    ``thousands``: whether ``1,234`` outside brackets is one number (``1{,}234`` and ``1,\!234`` always are).
    ``short_units``: whether ``5 m`` without ``\text`` is a length.
    Raises UnparsableError if the text is too long or its braces are unbalanced.
    """
    if len(text) > MAX_CHARS:
        raise UnparsableError("the answer is too long")
    return _numbers(_Scanner(prepared(text), short_units).tokens(), thousands)


class _Scanner:
    """One pass over a text."""

    def __init__(self, text: str, short_units: bool, depth: int = 0) -> None:
        if depth > MAX_TEXTS:
            raise UnparsableError("the answer is nested too deeply")
        self.depth = depth
        self.text = text
        self.short_units = short_units
        self.found: list[Token] = []
        self.space = False
        # Dollar signs in pairs enclose formulas; a single one is a currency sign.
        self.money = len(re.findall(r"(?<!\\)\$", text)) % 2 == 1

    def tokens(self) -> list[Token]:
        position = 0
        while position < len(self.text):
            match = _SCAN.match(self.text, position)
            assert match is not None
            position = match.end()
            kind, value = str(match.lastgroup), match[0]
            if kind == "space":
                # Thin spaces matter only inside numbers.
                if value in ("\\!", "\\,") and self.found and self.found[-1].kind in ("num", "op"):
                    self.found.append(Token("thin", value))
                self.space = True
                continue
            if kind == "cmd":
                position = self._command(value[1:], position)
            else:
                getattr(self, f"_{kind}")(value, position)
            self.space = False
        return self.found

    def add(self, kind: str, value: str) -> None:
        """Append a token; consecutive texts are joined."""
        if kind == "text" and self.found and self.found[-1].kind == "text":
            self.found[-1] = Token("text", f"{self.found[-1].value} {value}", self.found[-1].space)
        else:
            self.found.append(Token(kind, value, self.space))

    def _num(self, value: str, position: int) -> None:
        self.add("num", value)

    def _rel(self, value: str, position: int) -> None:
        self.add("op", {"**": "^", "==": "=", ":=": "=", "+/-": "pm"}.get(value, value))

    def _char(self, value: str, position: int) -> None:
        if value == "$":
            if self.money:
                self.add("text", "dollars")
        elif value == "%":
            self.add("text", "percent")
        elif value not in '"`?\ufeff':
            self.add("op", value)

    def _esc(self, value: str, position: int) -> None:
        meaning = {"\\$": ("text", "dollars"), "\\%": ("text", "percent"), "\\{": ("op", "lset"), "\\}": ("op", "rset"),
                   "\\\\": ("op", "newline"), "\\|": ("op", "|")}.get(value)  # fmt: skip
        if meaning:
            self.add(*meaning)

    def _word(self, word: str, position: int) -> None:
        lower = word.lower()
        after = self.text[position:].lstrip()[:1]
        if lower in PLAIN and (word.islower() or len(word) > 3):
            self.add(*PLAIN[lower])
        elif (
            lower in FUNCTIONS
            and (word.islower() or after in ("(", "["))
            and (lower not in ("sec", "min") or after == "(")
        ):
            self.add("fn", lower)
        elif self._is_text(word):
            self.add("text", word)
        elif self._is_exponent(word, after):
            self.found += [Token("op", "*"), Token("num", "10"), Token("op", "^")]
        else:
            for char in word:
                self.add("sym", char)
                self.space = False

    def _is_exponent(self, word: str, after: str) -> bool:
        """Whether the word is the e in ``3e5``."""
        glued = bool(self.found) and self.found[-1].kind == "num" and not self.space
        return glued and ((word == "e" and after.isdigit()) or (word == "E" and after in tuple("+-0123456789")))

    def _is_text(self, word: str) -> bool:
        lower = word.lower()
        after_number = bool(self.found) and self.found[-1].kind == "num"
        if lower in SHORT_WORDS or (self.short_units and lower in SHORT_UNITS and after_number):
            return True
        if after_number and lower in ("sq", "cu") and self.space:
            return True
        if len(word) > 2 and word[0].isupper() and word[1:].islower():
            return True  # Red
        if lower in SHORT_UNITS and self._after_unit():
            return True
        if self.found and self.found[-1].kind == "text" and self.space and len(word) > 1:
            return self.found[-1].value.strip().lower() not in CONNECTORS or len(word) > 3
        if after_number and not self.space and lower in ("st", "nd", "rd", "th"):
            return True
        if len(word) >= 4:
            return not all(a < b for a, b in pairwise(word))
        return False

    def _after_unit(self) -> bool:
        """Whether a unit's ``/`` or "per" was last: then ``h`` is one as well."""
        last = [token.value for token in self.found[-2:] if token.kind == "text" or token.value == "/"]
        return (len(last) == 2 and last[1] == "/") or (bool(last) and last[-1].endswith(" per"))

    def _command(self, name: str, position: int) -> int:
        """Add the token of a command; returns the position after it."""
        if name in TEXT_COMMANDS:
            return self._text_command(name, position)
        if name in DROPPED:
            return position
        if name in ("hspace", "vspace", "label", "tag"):
            return self._group(position)[1]
        if name in ("begin", "end"):
            environment, position = self._group(position)
            self.add("cmd", name)
            self.add("env", environment.strip().rstrip("*"))
        elif name in OPS:
            self._operator(OPS[name])
        elif name in COMMANDS:
            self.add("cmd", COMMANDS[name])
        elif name in FUNCTIONS:
            self.add("fn", name)
        elif name in CONSTANTS and name != "R":
            self.add("const", CONSTANTS[name])
        elif name == "circ":
            self._circle()
        elif name in ("pmod", "bmod", "mod", "sum", "prod", "int", "lim"):
            raise UnparsableError(f"\\{name} is not evaluated")
        else:
            self.add("sym", GREEK.get(name, name))
        return position

    def _operator(self, value: str) -> None:
        if value in CONNECTORS:
            self.add("text", value)
        else:
            self.add("op", value)

    def _circle(self) -> None:
        """Turn ``^\\circ`` and ``^{\\circ`` into one postfix token; the closing brace is left to the parser."""
        braced = bool(self.found) and self.found[-1][:2] == ("op", "{")
        if braced:
            self.found.pop()
        if self.found and self.found[-1][:2] == ("op", "^"):
            self.found.pop()
        self.add("op", "deg{" if braced else "deg")

    def _text_command(self, name: str, position: int) -> int:
        content, position = self._group(position)
        stripped = content.strip().replace("\\ ", " ").replace("~", " ").replace("\\", "")
        if name == "mathbb":
            self.add(*(("const", "reals") if stripped == "R" else ("sym", f"bb{stripped}")))
        elif name in MATH_STYLES and (len(stripped) == 1 or stripped in FUNCTIONS):
            self.found += tokenize(stripped, thousands=False)
        elif "$" in stripped or not re.search(r"[A-Za-z]", stripped) or _NESTED.fullmatch(content):
            self.space = self.space or content != content.lstrip()
            inner = _Scanner(prepared(content), self.short_units, self.depth + 1)
            inner.space = self.space
            self.found += inner.tokens()
        elif stripped:
            self.add("text", stripped)
        return position

    def _group(self, position: int) -> tuple[str, int]:
        """The content of the braces at ``position``, or the single token there; and the position after it."""
        rest = re.compile(r"\s*\*?\s*").match(self.text, position)
        start = rest.end() if rest else position
        if not self.text.startswith("{", start):
            single = re.compile(r"\\[A-Za-z]+|.|\Z", re.DOTALL).match(self.text, start)
            return (single[0], single.end()) if single else ("", start)
        depth = 0
        for index in range(start, len(self.text)):
            depth += (self.text[index] == "{") - (self.text[index] == "}")
            if depth == 0:
                return self.text[start + 1 : index], index + 1
        raise UnparsableError("a brace is not closed")


_OPEN, _CLOSE = frozenset({"(", "[", "lset", "langle"}), frozenset({")", "]", "rset", "rangle"})


def _numbers(tokens: list[Token], thousands: bool) -> list[Token]:
    """Join digits in groups of three into one number and drop thin spaces."""
    out: list[Token] = []
    depth = index = 0
    while index < len(tokens):
        token = tokens[index]
        depth += (token.value in _OPEN) - (token.value in _CLOSE) if token.kind == "op" else 0
        index += 1
        if token.kind == "thin":
            continue
        if token.kind == "num" and re.fullmatch(r"[1-9]\d{0,2}", token.value):
            digits = token.value
            while (step := _group_of_three(tokens, index, thousands and depth == 0)) and "." not in digits:
                digits += tokens[index + step - 1].value
                index += step
            token = Token("num", digits, token.space)
        out.append(token)
    return out


def _group_of_three(tokens: list[Token], index: int, plain: bool) -> int:
    """How many tokens from ``index`` on form a separator and three digits; 0 if they do not."""
    comma = Token("op", ",")
    values = [token[:2] for token in tokens[index : index + 4]]
    separators: list[list[tuple[str, str]]] = [[("op", "{"), comma[:2], ("op", "}")]]
    separators += [[comma[:2], ("thin", "\\!")], [("thin", "\\!"), comma[:2]], [("thin", "\\,")], [("thin", "\\!")]]
    if plain:
        separators += [[comma[:2]], [comma[:2], ("thin", "\\,")], []]
    for separator in separators:
        n = len(separator)
        if values[:n] == separator and index + n < len(tokens):
            last = tokens[index + n]
            glued = all(not token.space for token in tokens[index : index + n])
            spaced = last.space and not _after_thin_space(tokens, index + n)
            right_space = spaced if n == 0 else (glued and not spaced)
            if last.kind == "num" and re.fullmatch(r"\d{3}(\.\d+)?", last.value) and right_space:
                return n + 1
    return 0


def _after_thin_space(tokens: list[Token], index: int) -> bool:
    """Whether the space before the token at ``index`` is a thin one."""
    return index > 0 and tokens[index - 1].kind == "thin"
