"""A recursive-descent parser of the notation of final answers; :mod:`.tree` lists the nodes."""

from __future__ import annotations

from fractions import Fraction

from agentopt_local.graders.math.cursor import Cursor
from agentopt_local.graders.math.failures import UnparsableError
from agentopt_local.graders.math.lexer import Token
from agentopt_local.graders.math.tree import Node, checked_height
from agentopt_local.graders.math.words import canonical_text

RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "~=", "==")
_CLOSING = {"(": (")", "]"), "[": ("]", ")"), "lset": ("rset",), "langle": ("rangle", ">"), "{": ("}",)}


class Parser(Cursor):
    """Parses one part of an answer."""

    def whole(self) -> Node:
        """The tree of all tokens. Raises UnparsableError if there are none or some are left over."""
        node = self.over(self.relation())
        if self.position < len(self.tokens):
            raise UnparsableError(f"{self.tokens[self.position].value!r} is not understood")
        return checked_height(node)

    def relation(self) -> Node:
        operands = [self.ratio()]
        operators: list[str] = []
        while operator := self.op(*RELATIONS, "in"):
            if operator == "in":  # x \in S means S
                if operators or operands[0][0] != "sym":
                    raise UnparsableError("'in' is only understood after a variable")
                operands = [self.ratio()]
                continue
            operators.append(operator)
            operands.append(self.ratio())
        return ("rel", tuple(operators), tuple(operands)) if operators else operands[0]

    def ratio(self) -> Node:
        items = [self.union()]
        while self.peek()[:2] == ("op", ":"):
            self.position += 1
            items.append(self.union())
        return ("ratio", tuple(items)) if len(items) > 1 else items[0]

    def union(self) -> Node:
        node = self.expression()
        while operator := self.op("cup", "cap", "setminus"):
            node = (operator, node, self.expression())
        return node

    def expression(self) -> Node:
        self.enter()
        sign = self.op("+", "-", "pm", "mp")
        node = self.signed(sign, self.signed_term(sign))
        while sign := self.op("+", "-", "pm", "mp"):
            node = ("add", node, self.signed(sign, self.signed_term(sign)))
        self.depth -= 1
        return node

    def signed_term(self, sign: str | None) -> Node:
        return self.signed(self.second_sign(sign), self.term())

    def term(self) -> Node:
        node = self.power()
        while True:
            if operator := self.op("*", "/"):
                sign = self.op("-", "+")
                factor = self.signed(sign, self.power())
                node = ("mul" if operator == "*" else "div", node, factor)
            elif self.starts_factor():
                if node[0] == "text":
                    raise UnparsableError("words and numbers are mixed")
                mixed = self.mixed(node)
                if mixed is not None:
                    node = mixed
                elif self.peek().kind == self.tokens[self.position - 1].kind == "num":
                    raise UnparsableError("two numbers follow each other")
                else:
                    node = ("mul", node, self.power())
            else:
                return node

    def mixed(self, whole: Node) -> Node | None:
        r"""``3\frac{1}{2}`` or ``3 1/2`` as a number, given the whole number; None if no fraction follows.

        A fraction that makes no mixed number is a factor. It is not parsed again: nested ones would take twice as long
        with each level.
        """
        if whole[0] != "num" or whole[1].denominator != 1 or self.tokens[self.position - 1].kind != "num":
            return None
        ahead = [token[:2] for token in self.tokens[self.position : self.position + 3]]
        if ahead[:1] == [("cmd", "frac")]:
            fraction = self.power()
            return _mixed_number(whole, fraction) or ("mul", whole, fraction)
        start = self.position
        if len(ahead) == 3 and ahead[0][0] == ahead[2][0] == "num" and ahead[1] == ("op", "/"):
            fraction = ("div", self.number(), (self.need("/"), self.number())[1])
            if (number := _mixed_number(whole, fraction)) is not None:
                return number
        self.position = start
        return None

    def power(self) -> Node:
        node = self.postfix(self.primary())
        if self.op("^"):
            exponent = self.script()
            node = self.postfix(("pow", node, exponent))
        return node

    def postfix(self, node: Node) -> Node:
        while found := self.op("!", "deg", "deg{", "'"):
            if found == "deg{":
                self.need("}")
            if found == "'":
                if node[0] != "sym":
                    raise UnparsableError("a prime does not follow a name")
                node = ("sym", node[1] + "'")
            else:
                node = ("fact" if found == "!" else "deg", node)
        return node

    def script(self) -> Node:
        """What follows ``^``: a group, or a number or factor with an optional sign."""
        self.enter()
        sign = self.op("-", "+")
        node = self.signed(sign, self.postfix(self.primary()))
        if self.op("^"):
            node = ("pow", node, self.script())
        self.depth -= 1
        return node

    def argument(self) -> Node:
        r"""One argument of a macro: a group or a single token. Of several digits only the first, as in TeX."""
        token = self.peek()
        if token.kind == "num" and len(token.value) > 1 and token.value.isdigit():
            self.tokens = list(self.tokens)
            self.tokens[self.position : self.position + 1] = [
                Token("num", token.value[0], token.space), Token("num", token.value[1:]),
            ]  # fmt: skip
        return self.nested(self.primary)

    def primary(self) -> Node:
        token = self.peek()
        if token.kind == "num":
            node = self.number()
            if self.op("_"):
                return ("based", token.value, self.subscript())
            return self.repeating(token.value, node)
        if token.kind == "op":
            return self.bracket(token.value)
        self.position += 1
        if token.kind == "sym":
            return self.symbol(token.value)
        if token.kind == "const":
            return (token.value,) if token.value in ("reals", "empty") else ("const", token.value)
        if token.kind == "text":
            return ("text", canonical_text(token.value))
        if token.kind == "fn":
            return self.function(token.value)
        if token.kind == "cmd":
            return self.command(token.value)
        raise UnparsableError(f"{token.value!r} is not understood" if token.value else "the answer ends too early")

    def bracket(self, opening: str) -> Node:
        if opening == "|" and self.bars == 0:
            self.position += 1
            self.bars += 1
            node = self.expression()
            self.bars -= 1
            self.need("|")
            return ("abs", node)
        if opening in ("lfloor", "lceil"):
            self.position += 1
            node = self.expression()
            self.need("r" + opening[1:])
            return ("fn", opening[1:], node)
        if opening == "." and self.peek(1).kind == "cmd":  # .\overline{3}
            self.position += 1
            return self.repeating("0.", ("num", Fraction(0)))
        if opening not in _CLOSING:
            raise UnparsableError(f"{opening!r} is not understood")
        self.position += 1
        bars, self.bars = self.bars, 0
        node = self.group() if opening == "{" else self.items(opening)
        self.bars = bars
        return node

    def group(self) -> Node:
        if self.op("}"):
            return ("empty",)
        node = self.over(self.relation())
        self.need("}")
        return node

    def over(self, node: Node) -> Node:
        r"""``a \over b`` and ``n \choose k``, which extend to both ends of their group."""
        token = self.peek()
        if token.kind != "cmd" or token.value not in ("over", "choose"):
            return node
        self.position += 1
        return ("div" if token.value == "over" else "binom", node, self.relation())

    def items(self, opening: str) -> Node:
        if opening == "lset" and self.op("rset"):
            return ("empty",)
        if opening == "lset" and self.peek().kind == "sym" and self.peek(1)[:2] in (("op", "|"), ("op", ":")):
            self.position += 2  # {x | condition}
            node = self.relation()
            self.need("rset")
            return node
        items = [self.relation()]
        while self.op(",", ";"):
            items.append(self.relation())
        closing = self.need(*_CLOSING[opening])
        if opening == "lset":
            return ("set", tuple(items))
        if opening == "langle":
            opening, closing = "(", ")"
        if len(items) == 1 and (opening, closing) in (("(", ")"), ("[", "]")):
            return items[0]
        return ("tuple", opening, closing, tuple(items))

    def command(self, name: str) -> Node:
        if name == "frac":
            top = self.argument()
            return ("div", top, self.argument())
        if name == "binom":
            top = self.argument()
            return ("binom", top, self.argument())
        if name == "sqrt":
            index: Node = ("num", Fraction(2))
            if self.op("["):
                index = self.expression()
                self.need("]")
            return ("root", self.argument(), index)
        if name == "overline":
            return self.argument()
        if name == "begin":
            return self.matrix()
        raise UnparsableError(f"\\{name} is not understood")

    def matrix(self) -> Node:
        kind = self.peek().value
        self.position += 1
        if kind == "array" and self.op("{"):
            while self.peek().kind != "end" and not self.op("}"):
                self.position += 1
        elif kind not in ("pmatrix", "bmatrix", "matrix", "smallmatrix", "Bmatrix", "cases"):
            raise UnparsableError(f"{kind!r} is not a known environment")
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while self.peek()[:2] != ("cmd", "end"):
            row.append(self.relation())
            if not self.op("&"):
                rows.append(tuple(row))
                row = []
                if not self.op("newline"):
                    break
        if self.peek()[:2] != ("cmd", "end"):
            raise UnparsableError("a matrix is not closed")
        self.position += 2
        return ("matrix", tuple(rows))

    def function(self, name: str) -> Node:
        exponent: Node | None = None
        base: Node | None = None
        if self.op("_"):
            base = self.argument() if self.peek().kind != "num" else self.number()
        if self.op("^"):
            exponent = self.script()
        if self.op("_"):
            base = self.argument() if self.peek().kind != "num" else self.number()
        if exponent == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan", "sec", "csc", "cot"):
            name, exponent = f"arc{name}", None
        node: Node = self.applied(name, base)
        return node if exponent is None else ("pow", node, exponent)

    def applied(self, name: str, base: Node | None) -> Node:
        if self.peek()[:2] in (("op", "("), ("op", "{"), ("op", "[")):
            argument = self.postfix(self.primary())
        else:
            argument = self.nested(self.power)
            while self.starts_factor() and self.peek().kind in ("sym", "const", "cmd"):
                argument = ("mul", argument, self.power())
        if name == "log" or base is not None:
            return ("log", base or ("num", Fraction(10)), argument)
        return ("fn", name, argument)


def _mixed_number(whole: Node, fraction: Node) -> Node | None:
    """The sum of a whole number and a proper fraction of whole numbers; None for any other node."""
    if fraction[0] == "div" and fraction[1][0] == fraction[2][0] == "num":
        top, bottom = fraction[1][1], fraction[2][1]
        if top.denominator == bottom.denominator == 1 and 0 < top < bottom:
            return ("num", whole[1] + top / bottom)
    return None
