"""Parsing a whole final answer: its parts, how they are joined, and the unit of each."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from agentopt_local.graders.math.failures import UnparsableError
from agentopt_local.graders.math.lexer import Token, tokenize
from agentopt_local.graders.math.parser import Parser
from agentopt_local.graders.math.tree import Node
from agentopt_local.graders.math.units import unit_of
from agentopt_local.graders.math.words import CONNECTORS, PHRASES, canonical_text
from agentopt_local.graders.number_words import number_word

MAX_PARTS = 60

_OPEN, _CLOSE = frozenset({"(", "[", "{", "lset", "langle"}), frozenset({")", "]", "}", "rset", "rangle"})
_BASE = re.compile(r"\(?(\d[0-9A-Za-z]*|[A-Fa-f][0-9A-Fa-f]+)\)?_(\d{1,2})")
_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
               "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip


class Part(NamedTuple):
    """One part of an answer."""

    node: Node
    unit: str
    """A unit of measure, such as ``cm^2``; empty if there is none, or only a noun that is not a measure."""


class Answer(NamedTuple):
    """A parsed final answer."""

    parts: tuple[Part, ...]
    joined: str
    """``list``, ``or`` or ``and`` for several parts; empty for one."""


def parse_answer(text: str, *, thousands: bool = True, short_units: bool = False) -> Answer:
    """The answer in ``text``; for the options see :func:`.lexer.tokenize`.

    Raises UnparsableError if it is not in a known notation.
    """
    based = _based(text)
    if based is not None:
        return Answer((Part(based, ""),), "")
    tokens = _trimmed(tokenize(text, thousands=thousands, short_units=short_units))
    if not tokens:
        raise UnparsableError("the answer is empty")
    words = _words(tokens)
    if words is not None:
        return words
    groups, joined = _split(tokens)
    if len(groups) > MAX_PARTS:
        raise UnparsableError("the answer has too many parts")
    parts = tuple(part for group in groups for part in _part(group))
    return Answer(parts, joined if len(parts) > 1 else "")


def _based(text: str) -> Node | None:
    r"""``1101_2``, ``(1101)_{two}``, ``1101 \text{ (base 2)}``."""
    if len(text) > 200:
        return None
    plain = re.sub(r"\\(?:text|mathrm|textrm|mbox)\s*|\\[,!; ]|[{}$\s]|\\left|\\right|,(?=\d{3})", "", text)
    plain = re.sub(r"\.$", "", plain)
    if re.match(r"[a-zA-Z]=", plain):
        plain = plain[2:]
    plain = re.sub(r"(?i)_?\(?(?:in)?base[_-]?(\w{1,8}?)\)?$", r"_\1", plain)
    for word, base in _BASE_WORDS.items():
        if plain.lower().endswith(f"_{word}"):
            plain = f"{plain[: -len(word)]}{base}"
    match = _BASE.fullmatch(plain)
    if match is None or plain.startswith("(") != (")" in plain) or not 2 <= int(match[2]) <= 36:
        return None
    digits = match[1].upper().lstrip("0") or "0"
    try:
        int(digits, int(match[2]))
    except ValueError:
        return None
    return ("num", Fraction(digits)) if match[2] == "10" else ("based", digits, int(match[2]))


def _trimmed(tokens: list[Token]) -> list[Token]:
    """``tokens`` without punctuation at the end and without braces around everything."""
    end = len(tokens)
    while end and tokens[end - 1].kind == "op" and tokens[end - 1].value in (".", ",", ";", "newline"):
        end -= 1
    tokens = tokens[:end]
    n = _enclosing(tokens)
    return tokens[n : len(tokens) - n]


def _enclosing(tokens: list[Token]) -> int:
    """The number of braces that enclose all of ``tokens``: 2 for ``{{x} + {y}}`` in braces."""
    n, limit = 0, (len(tokens) - 1) // 2
    while n < limit and tokens[n][:2] == ("op", "{") and tokens[-n - 1][:2] == ("op", "}"):
        n += 1
    depth = 0
    for index, token in enumerate(tokens):
        if token.kind == "op":
            depth += (token.value in _OPEN or token.value == "deg{") - (token.value in _CLOSE)
            if n <= index < len(tokens) - n:
                n = min(n, max(0, depth))
    return n


def _words(tokens: list[Token]) -> Answer | None:
    r"""An answer in words: ``\text{Evelyn}``, ``(A)``, ``A, C``, ``no solution``, ``\text{two}``; otherwise None."""
    text = ""
    has_word = False
    for token in tokens:
        if token.kind == "text":
            has_word = True
        elif token.kind == "sym" and len(token.value) == 1 and token.value.isalpha():
            pass
        elif not (token.kind == "op" and token.value in ("(", ")", ",", "-", ".", "'", "&", "!", "[", "]")):
            return None
        text += " " * (token.space or token.kind == "text") + token.value
    letters = [token.value for token in tokens if token.kind == "sym"]
    if not has_word and not (len(letters) > 1 and "," in text and all(letter.isupper() for letter in letters)):
        return None
    text = " ".join(text.split())
    names = re.split(r" ?(?:, ?(?:and\b|or\b)?|;) ?| (?:and|or) ", text, flags=re.IGNORECASE)
    if text.startswith("(") and "," in text and not has_word:
        return None  # a point whose coordinates are letters
    parts = tuple(Part(_word(name), "") for name in names if name.strip(" ()[]."))
    if not parts:
        return None
    return Answer(parts, "list" if len(parts) > 1 else "")


def _word(text: str) -> Node:
    phrase = PHRASES.get(re.sub(r"[^a-z]", "", text.casefold()))
    if phrase in ("empty", "reals"):
        return (phrase,)
    number = number_word(text)
    return ("num", Fraction(number)) if number is not None else ("text", phrase or canonical_text(text))


def _split(tokens: list[Token]) -> tuple[list[list[Token]], str]:
    """The parts between commas, ``or`` and ``and`` outside brackets, and what joins them."""
    groups: list[list[Token]] = [[]]
    joined = "list"
    depth = 0
    for token in tokens:
        word = token.value.casefold().strip(" ,.;") if token.kind == "text" else ""
        if token.kind == "op":
            depth += (token.value in _OPEN or token.value == "deg{") - (token.value in _CLOSE)
        if token.kind == "cmd" and token.value in ("begin", "end"):
            depth += 1 if token.value == "begin" else -1
        separates = token.kind == "op" and token.value in (",", ";")
        if depth == 0 and (separates or word in CONNECTORS):
            joined = word or joined
            groups.append([])
        elif depth == 0 and (tail := re.fullmatch(r"(.*\S)\s+(and|or)", word)):
            groups[-1].append(token._replace(value=tail[1]))  # "3 hours and 20 minutes"
            joined = tail[2]
            groups.append([])
        else:
            groups[-1].append(token)
    return [group for group in groups if group], joined


def _part(tokens: list[Token]) -> list[Part]:
    r"""The part, with its unit separated; several parts if it has a ``\pm``."""
    tokens, unit = _without_unit(_trimmed(tokens))
    if not tokens:
        raise UnparsableError("a part of the answer is empty")
    if all(token.kind == "text" for token in tokens):
        return [Part(_word(" ".join(token.value for token in tokens)), "")]
    based = _based(" ".join(token.value for token in tokens)) if any(t.value == "_" for t in tokens) else None
    parser = Parser(tokens)
    node = based or parser.whole()
    return [Part(each, unit) for each in _expanded(node, parser.n_pm)]


def _without_unit(tokens: list[Token]) -> tuple[list[Token], str]:
    """A part's tokens without the unit before or after its number; and the unit."""
    unit = ""
    if len(tokens) > 1 and tokens[0][:2] == ("text", "dollars"):
        tokens, unit = tokens[1:], "dollar"
    elif len(tokens) > 2 and tokens[0][:2] == ("op", "-") and tokens[1][:2] == ("text", "dollars"):
        tokens, unit = [tokens[0], *tokens[2:]], "dollar"
    else:
        for index in range(1, len(tokens) - 1):  # x = \$5
            if tokens[index - 1][:2] == ("op", "=") and tokens[index][:2] == ("text", "dollars"):
                tokens, unit = tokens[:index] + tokens[index + 1 :], "dollar"
                break
    end = len(tokens)
    while end > 1 and _belongs_to_unit(tokens, end - 1):
        end -= 1
    if 0 < end < len(tokens) and tokens[end].kind == "text" and tokens[end - 1][:2] not in _NEEDS_MORE:
        text = "".join(f" {token.value}" if token.kind == "text" else token.value for token in tokens[end:])
        unit = unit_of(" ".join(text.split()).replace("{", "").replace("}", "").replace("/", " per ")) or unit
        tokens = tokens[:end]
        if (scale := _SCALE.match(text)) is not None:
            tokens += [Token("op", "*"), Token("num", str(_SCALES[scale[1].lower()]))]
    elif ("op", "deg") in [token[:2] for token in tokens[-1:]] or ("op", "deg{") in [t[:2] for t in tokens[-2:-1]]:
        unit = unit or "degree"
    return tokens, unit


_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})\b", re.IGNORECASE)
_NEEDS_MORE = {("op", sign) for sign in ("=", "<", ">", "<=", ">=", "+", "-", "*", "/", "^", "(", "_", "!=")}


def _belongs_to_unit(tokens: list[Token], index: int) -> bool:
    """Whether the token is text, or a power or slash after text."""
    token = tokens[index]
    if token.kind == "text":
        return True
    before = [each for each in tokens[max(0, index - 5) : index] if each.kind == "text"]
    if not before:
        return False
    if tokens[index - 1].value in ("^", "{") and token[:2] == ("op", "-"):
        return True
    return (token.kind == "op" and token.value in ("^", "{", "}", "/")) or (
        token.kind == "num" and token.value in ("1", "2", "3") and tokens[index - 1].value in ("^", "{", "-")
    )


def _expanded(node: Node, n_pm: int) -> list[Node]:
    """The values of an answer with ``n_pm`` plus-minus signs: one for each choice of signs."""
    if n_pm == 0:
        return [node]
    if n_pm > 4:
        raise UnparsableError("the answer has too many plus-minus signs")
    return [_signed(node, choice) for choice in range(1 << n_pm)]


def _signed(node: Node, choice: int) -> Node:
    if node and node[0] == "pm":
        _, sign, index, inner = node
        negative = bool(choice >> index & 1) != (sign < 0)
        inner = _signed(inner, choice)
        return ("neg", inner) if negative else inner
    return tuple(_signed(each, choice) if isinstance(each, tuple) else each for each in node)
