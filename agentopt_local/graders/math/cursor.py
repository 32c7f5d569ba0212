"""A position in a list of tokens: what the parser is built from, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from agentopt_local.graders.math.failures import UnparsableError
from agentopt_local.graders.math.lexer import Token
from agentopt_local.graders.math.tree import Node

MAX_DEPTH = 48
"""Deeper nesting is refused, long before Python's own limit."""
MAX_DIGITS = 2000

_STARTS_FACTOR = frozenset({"(", "[", "{", "lset", "lfloor", "lceil", "langle"})


class Cursor:
    """A position in a list of tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0
        """Whether the cursor is between two bars of an absolute value."""
        self.n_pm = 0
        """How many plus-minus signs came before."""

    def peek(self, offset: int = 0) -> Token:
        """The token ``offset`` places ahead; an empty one past the end."""
        index = self.position + offset
        return self.tokens[index] if index < len(self.tokens) else Token("end", "")

    def op(self, *values: str) -> str | None:
        """Consume and return the next operator if it is one of ``values``; else None."""
        token = self.peek()
        if token.kind == "op" and token.value in values:
            self.position += 1
            return token.value
        return None

    def need(self, *values: str) -> str:
        """Consume the next operator. Raises UnparsableError unless it is one of ``values``."""
        found = self.op(*values)
        if found is None:
            raise UnparsableError(f"expected {values[0]!r}, found {self.peek().value!r}")
        return found

    def number(self) -> Node:
        token = self.peek()
        if token.kind != "num" or len(token.value) > MAX_DIGITS:
            raise UnparsableError(f"{token.value[:20]!r} cannot be read as a number")
        self.position += 1
        return ("num", Fraction(token.value))

    def symbol(self, name: str) -> Node:
        if self.op("_"):
            return ("sym", f"{name}_{self.subscript()}")
        return ("const", name) if name in ("e", "i") else ("sym", name)

    def subscript(self) -> str:
        if self.op("{"):
            start = self.position
            while self.peek().kind != "end" and self.peek()[:2] != ("op", "}"):
                self.position += 1
            content = "".join(token.value for token in self.tokens[start : self.position])
            self.need("}")
            return content
        self.position += 1
        return self.tokens[self.position - 1].value if self.position <= len(self.tokens) else ""

    def subscript_text(self) -> str:
        token = self.peek()
        if token.kind == "num":
            self.position += 1
            return token.value
        return self.subscript()

    def repeating(self, digits: str, node: Node) -> Node:
        r"""The number ``node``, continued by ``\overline{3}`` or dots where they follow it."""
        if "." in digits:
            block = ""
            if self.peek()[:2] == ("cmd", "overline"):
                self.position += 1
                block = self.subscript_text()
            elif "." in digits and self.op("dots"):
                block = repeated_block(digits.partition(".")[2])
                if not block:
                    raise UnparsableError("which digits repeat is unclear")
            if block:
                if not block.isdigit() or len(block) > 50:
                    raise UnparsableError("the repeating digits are not understood")
                scale = 10 ** len(digits.partition(".")[2])
                return ("num", node[1] + Fraction(int(block), (10 ** len(block) - 1) * scale))
        return node

    def signed(self, sign: str | None, node: Node) -> Node:
        if sign == "-":
            return ("neg", node)
        if sign in ("pm", "mp"):
            # A \mp always has the opposite sign of the \pm before it.
            index = self.n_pm if sign == "pm" else max(0, self.n_pm - 1)
            self.n_pm += sign == "pm" or self.n_pm == 0
            return ("pm", 1 if sign == "pm" else -1, index, node)
        return node

    def second_sign(self, sign: str | None) -> str | None:
        """Consume and return the sign of a term that follows ``sign``, as in ``11 + -i``. But 5--7 is a range."""
        token = self.peek()
        if sign is None or (token.value == sign and not token.space):
            return None
        return self.op("+", "-")

    def starts_factor(self) -> bool:
        """Whether the next token can start a factor, so that a product needs no sign."""
        token = self.peek()
        if token.kind in ("num", "sym", "fn", "const"):
            return True
        if token.kind == "cmd":
            return token.value in ("frac", "sqrt", "binom", "begin", "overline", "root")
        if token.kind == "op" and token.value == "|":
            return self.bars == 0
        return token.kind == "op" and token.value in _STARTS_FACTOR

    def nested(self, parse: Callable[[], Node]) -> Node:
        r"""What ``parse`` returns, one level deeper where no brackets follow (they count themselves)."""
        bracket = self.peek().kind == "op"
        if not bracket:
            self.enter()
        node = parse()
        self.depth -= not bracket
        return node

    def enter(self) -> None:
        """Go one level deeper. Raises UnparsableError beyond ``MAX_DEPTH``."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnparsableError("the answer is nested too deeply")


def repeated_block(digits: str) -> str:
    """The block that the end of ``digits`` repeats: ``3`` of ``1333``, ``45`` of ``4545``; empty if that is unclear.

    Repeats that start earliest count, then a block that comes three times, then the shortest. A single digit must come
    three times.
    """
    found: list[tuple[int, int, int]] = []
    for length in range(1, len(digits) // 2 + 1):
        block, start = digits[-length:], len(digits) - length
        while start >= length and digits.startswith(block, start - length):
            start -= length
        n = (len(digits) - start) // length
        if n >= 3 or (n == 2 and length > 1):
            found.append((start, n == 2, length))
    return digits[-min(found)[2] :] if found else ""
