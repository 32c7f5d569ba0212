"""Whether two final answers say the same.

Expressions are compared by value: exactly where they are rational, and otherwise with several hundred bits, at fixed
points for their variables. That two different expressions of a few hundred characters agree at all of them does not
happen by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from agentopt_local.graders.answer import Answer, Part
from agentopt_local.graders.cursor import Node
from agentopt_local.graders.equations import assigned_value, chain, same_equation
from agentopt_local.graders.evaluate import (
    MAX_PRECISION,
    PRECISION,
    Budget,
    Evaluator,
    UnboundedError,
    UndefinedError,
)
from agentopt_local.graders.latex import UnparsableError
from agentopt_local.graders.points import points, symbols
from agentopt_local.graders.real_sets import Reals

_SET_KINDS = frozenset({"cup", "cap", "setminus", "reals", "empty"})
_INEQUALITIES = frozenset({"<", ">", "<=", ">=", "!="})
_NUMBERS_KINDS = frozenset(
    {"tuple", "set", "matrix", "rel", "ratio", "based", "reals", "empty", "cup", "cap", "setminus"}
)


class Comparison:
    """Compares the answers of one grading, within one budget."""

    def __init__(self) -> None:
        self.budget = Budget()

    def answers(self, expected: Answer, given: Answer) -> bool:
        """Whether two answers say the same."""
        if len(expected.parts) == len(given.parts) == 1:
            return self.parts(expected.parts[0], given.parts[0])
        if self._describes_set(expected) or self._describes_set(given):
            return self._real_sets(self._joined(expected), self._joined(given))
        for one, other in ((expected, given), (given, expected)):
            point = _named_point(one)
            if point is not None and len(other.parts) == 1:
                return self.nodes(point, other.parts[0].node)
        left, right = _items(expected), _items(given)
        as_sets = any(len(each.parts) == 1 and each.parts[0].node[0] == "set" for each in (expected, given))
        return self._matched(left, right, as_sets)

    def parts(self, expected: Part, given: Part) -> bool:
        """Whether two parts agree in value and, where both have a measure, in unit."""
        units = not expected.unit or not given.unit or expected.unit == given.unit
        return units and self.nodes(expected.node, given.node)

    def nodes(self, a: Node, b: Node) -> bool:
        """Whether two trees say the same."""
        self.budget.charge(20)
        if a == b:
            return True
        a, b = self._spread(a), self._spread(b)
        kinds = {a[0], b[0]}
        if "rel" in kinds:
            return self._relations(a, b)
        if kinds & _SET_KINDS:
            return self._real_sets(a, b)
        if "text" in kinds:
            return _letters(a) is not None and _letters(a) == _letters(b)
        if "set" in kinds:
            left, right = (each[1] if each[0] == "set" else (each,) for each in (a, b))
            no_tuple = "tuple" not in kinds
            return no_tuple and self._matched([Part(n, "") for n in left], [Part(n, "") for n in right], True)
        if kinds == {"tuple"}:
            return a[1:3] == b[1:3] and self._all(a[3], b[3])
        if kinds == {"matrix"}:
            return len(a[1]) == len(b[1]) and all(map(self._all, a[1], b[1]))
        if "ratio" in kinds:
            return self._ratios(a, b)
        if kinds & _NUMBERS_KINDS:
            return False
        return self.expressions(a, b)

    def expressions(self, a: Node, b: Node) -> bool:
        """Whether two expressions have the same value, whatever their variables are."""
        names = symbols(a) | symbols(b)
        if not names:
            return self._close_at({}, a, b) == "same"
        verdicts = [self._close_at(point, a, b) for point in points(names, 7)]
        if "different" in verdicts:
            return False
        # Where both are complex, only the branch of a root may differ: real points decide if there are any.
        counted = [verdict for verdict in verdicts if verdict == "same"]
        return len(counted) >= 3 or (bool(counted) and "branch" in verdicts and verdicts.count("undefined") == 0)

    def _close_at(self, point: dict[str, Fraction], a: Node, b: Node) -> str:
        """``same``, ``different``, ``branch`` (different where neither is real) or ``undefined``."""
        precision = PRECISION
        while True:
            numbers = Evaluator(self.budget, point, precision)
            try:
                left, right = numbers.value(a), numbers.value(b)
            except UndefinedError:
                return "undefined"
            if isinstance(left, Fraction) and isinstance(right, Fraction):
                return "same" if left == right else "different"
            if numbers.scale_bits <= precision // 3:
                break
            precision = 3 * numbers.scale_bits + PRECISION
            if precision > MAX_PRECISION:
                raise UnboundedError("a number in it is too large")
        left, right = numbers.real(left), numbers.real(right)
        mp = numbers.mp
        if mp.isinf(left) or mp.isinf(right):
            return "same" if left == right else "different"
        scale = max(0, numbers.scale_bits)
        tolerance = mp.ldexp(1, scale - precision // 2)
        size = max(abs(left), abs(right))
        if abs(left - right) <= min(tolerance, mp.ldexp(size, -64)) or size <= mp.ldexp(1, scale - precision + 96):
            return "same"
        complex_both = abs(mp.im(left)) > tolerance and abs(mp.im(right)) > tolerance
        return "branch" if point and complex_both and abs(left + right) <= tolerance else "different"

    def ratio(self, f: Node, g: Node) -> int:
        """The sign of the constant that ``f / g`` is at all points; 0 if it is none."""
        found: Any = None
        for point in points(symbols(f) | symbols(g), 7):
            numbers = Evaluator(self.budget, point)
            try:
                left, right = numbers.value(f), numbers.value(g)
            except UndefinedError:
                continue
            if left == 0 or right == 0:
                if left == right:
                    continue
                return 0
            quotient = numbers.real(left) / numbers.real(right)
            if found is not None and abs(found - quotient) > numbers.mp.ldexp(abs(found), -PRECISION // 2):
                return 0
            found = quotient if found is None else found
        if found is None or (hasattr(found, "imag") and found.imag != 0):
            return 0
        return 1 if found.real > 0 else -1

    def _all(self, left: Sequence[Node], right: Sequence[Node]) -> bool:
        return len(left) == len(right) and all(map(self.nodes, left, right))

    def _matched(self, left: list[Part], right: list[Part], as_sets: bool) -> bool:
        """Whether the parts are the same in some order; repeated ones count unless they are sets."""
        if as_sets:
            return all(any(self.parts(a, b) for b in right) for a in left) and all(
                any(self.parts(a, b) for a in left) for b in right
            )
        if len(left) != len(right):
            return False
        rest = list(right)
        for part in left:
            index = next((i for i, other in enumerate(rest) if self.parts(part, other)), None)
            if index is None:
                return False
            rest.pop(index)
        return True

    def _relations(self, a: Node, b: Node) -> bool:
        a, b = chain(a), chain(b)
        if a[0] == b[0] == "rel":
            operators = {*a[1], *b[1]}
            if operators == {"="}:
                return same_equation(self, a, b)
            if operators <= _INEQUALITIES and same_inequality(self, a, b):
                return True
            return symbols(a) == symbols(b) and self._real_sets(a, b)
        relation, other = (a, b) if a[0] == "rel" else (b, a)
        if set(relation[1]) <= {"=", "~="} and len(relation[1]) == 1:
            value = assigned_value(self, relation, sums=relation is b)
            return value is not None and self.nodes(value, other)
        return self._real_sets(relation, other)

    def _ratios(self, a: Node, b: Node) -> bool:
        if a[0] == b[0] == "ratio":
            if len(a[1]) != len(b[1]):
                return False
            if self._all(a[1], b[1]):
                return True
            if any(_is_minutes(item) for each in (a, b) for item in each[1][1:]):
                return False
            return all(
                self.expressions(("mul", a[1][0], right), ("mul", b[1][0], left))
                for left, right in zip(a[1][1:], b[1][1:], strict=True)
            )
        ratio, other = (a, b) if a[0] == "ratio" else (b, a)
        if len(ratio[1]) != 2 or other[0] != "div":
            return False
        return self.expressions(("div", *ratio[1]), other)

    def _real_sets(self, a: Node, b: Node) -> bool:
        if symbols(a) and symbols(b) and a[0] == b[0] and a[0] in ("cup", "cap"):
            left, right = _flat(a), _flat(b)  # with endpoints that are no numbers
            return self._matched([Part(n, "") for n in left], [Part(n, "") for n in right], True)
        reals = Reals(self.budget)
        try:
            return reals.equal(reals.of(a), reals.of(b))
        except (UnparsableError, UndefinedError):
            return False

    def _describes_set(self, answer: Answer) -> bool:
        return any(
            part.node[0] in ("cup", "cap", "setminus", "reals")
            or (part.node[0] == "rel" and set(part.node[1]) & _INEQUALITIES)
            or (part.node[0] == "tuple" and part.node[1:3] not in (("(", ")"), ("[", "]")))
            for part in answer.parts
        )

    def _joined(self, answer: Answer) -> Node:
        """The set that the parts describe together."""
        node = answer.parts[0].node
        for part in answer.parts[1:]:
            both = answer.joined == "and" and node[0] == part.node[0] == "rel"
            node = ("cap" if both or _excludes(part.node) else "cup", node, part.node)
        return node

    def _spread(self, node: Node) -> Node:
        """A multiple of a matrix as one matrix, and nested lists as a matrix."""
        if node[0] == "tuple" and node[1] == "[" and all(item[0] == "tuple" and item[1] == "[" for item in node[3]):
            return ("matrix", tuple(item[3] for item in node[3]))
        if node[0] == "neg" and (inner := self._spread(node[1]))[0] == "matrix":
            return _each(inner, lambda item: ("neg", item))
        if node[0] in ("mul", "div"):
            left, right = self._spread(node[1]), self._spread(node[2])
            if right[0] == "matrix" and left[0] != "matrix" and node[0] == "mul":
                return _each(right, lambda item: ("mul", left, item))
            if left[0] == "matrix" and right[0] != "matrix":
                return _each(left, lambda item: (node[0], item, right))
        return node


def same_inequality(comparison: Comparison, a: Node, b: Node) -> bool:
    """Whether two simple inequalities differ by a constant factor, turned round if it is negative."""
    if len(a[1]) != 1 or len(b[1]) != 1:
        return False
    (first,), (second,) = a[1], b[1]
    f, g = (("add", each[2][0], ("neg", each[2][1])) for each in (a, b))
    sign = comparison.ratio(f, g)
    turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
    return sign != 0 and first == (second if sign > 0 else turned[second])


def _each(matrix: Node, change: Any) -> Node:
    return ("matrix", tuple(tuple(change(item) for item in row) for row in matrix[1]))


def _items(answer: Answer) -> list[Part]:
    if len(answer.parts) == 1 and answer.parts[0].node[0] == "set":
        return [Part(node, "") for node in answer.parts[0].node[1]]
    return list(answer.parts)


def _named_point(answer: Answer) -> Node | None:
    """The point that ``x = 1, y = 2`` names, if the names are in order."""
    names, values = [], []
    for part in answer.parts:
        if part.node[0] != "rel" or part.node[1] != ("=",) or part.node[2][0][0] != "sym":
            return None
        names.append(part.node[2][0][1])
        values.append(part.node[2][1])
    return ("tuple", "(", ")", tuple(values)) if len(names) > 1 and names == sorted(set(names)) else None


def _letters(node: Node) -> str | None:
    """The words of a node, or a variable's letter."""
    if node[0] == "text":
        return str(node[1])
    return str(node[1]).casefold() if node[0] == "sym" and len(node[1]) == 1 else None


def _is_minutes(node: Node) -> bool:
    return bool(node[0] == "num" and 10 <= node[1] < 60)


def _excludes(node: Node) -> bool:
    return bool(node[0] == "rel" and node[1] == ("!=",))


def _flat(node: Node) -> list[Node]:
    return _flat(node[1]) + _flat(node[2]) if node[0] in ("cup", "cap") else [node]
