"""Whether two final answers are equivalent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentopt_local.graders.math.answer_parser import Answer, Part
from agentopt_local.graders.math.evaluator import Budget
from agentopt_local.graders.math.expressions import Expressions
from agentopt_local.graders.math.failures import UndefinedError, UnparsableError
from agentopt_local.graders.math.intervals import RealSets
from agentopt_local.graders.math.relations import assigned_value, same_equation, same_inequality, shortened
from agentopt_local.graders.math.tree import Node, variables
from agentopt_local.graders.math.units import same_unit

_SETS = frozenset({"cup", "cap", "setminus", "reals", "empty"})
_INEQUALITIES = frozenset({"<", ">", "<=", ">=", "!="})
_LETTERS = frozenset({"sym", "const"})
_NOT_EXPRESSIONS = _SETS | {"tuple", "set", "matrix", "rel", "ratio", "based"}


class Equivalence:
    """Compares the answers of one grading, within one budget."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.expressions = Expressions(self.budget)

    def answers(self, expected: Answer, given: Answer) -> bool:
        """Whether two answers are equivalent.

        Raises UnparsableError, UndefinedError or UnboundedError if they cannot be compared.
        """
        if len(expected.parts) == len(given.parts) == 1:
            return self._parts(expected.parts[0], given.parts[0])
        if _describes_set(expected) or _describes_set(given):
            return self._real_sets(_joined(expected), _joined(given))
        for one, other in ((expected, given), (given, expected)):
            point = _named_point(one)
            if point is not None and len(other.parts) == 1:
                return self._nodes(point, other.parts[0].node)
        left, right = _items(expected), _items(given)
        as_sets = any(len(each.parts) == 1 and each.parts[0].node[0] == "set" for each in (expected, given))
        return self._matched(left, right, as_sets)

    def _parts(self, expected: Part, given: Part) -> bool:
        """Whether two parts are equivalent and, if both have a unit, have the same one."""
        return same_unit(expected.unit, given.unit) and self._nodes(expected.node, given.node)

    def _nodes(self, a: Node, b: Node) -> bool:
        """Whether two trees are equivalent."""
        self.budget.charge(20)
        if a == b:
            return True
        a, b = _as_matrix(a), _as_matrix(b)
        kinds = {a[0], b[0]}
        if "rel" in kinds:
            return self._relations(a, b)
        if kinds & _SETS:
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
        if kinds & _NOT_EXPRESSIONS:
            return False
        return self.expressions.equal(a, b)

    def _all(self, left: Sequence[Node], right: Sequence[Node]) -> bool:
        return len(left) == len(right) and all(map(self._nodes, left, right))

    def _matched(self, left: list[Part], right: list[Part], as_sets: bool) -> bool:
        """Whether the parts are the same in some order. Repeated ones count, except in sets."""
        if as_sets:
            return all(any(self._parts(a, b) for b in right) for a in left) and all(
                any(self._parts(a, b) for a in left) for b in right
            )
        if len(left) != len(right):
            return False
        rest = list(right)
        for part in left:
            index = next((i for i, other in enumerate(rest) if self._parts(part, other)), None)
            if index is None:
                return False
            rest.pop(index)
        return True

    def _relations(self, a: Node, b: Node) -> bool:
        a, b = shortened(a), shortened(b)
        if a[0] == b[0] == "rel":
            operators = {*a[1], *b[1]}
            if operators == {"="}:
                return same_equation(a, b, self._nodes, self.expressions)
            if operators <= _INEQUALITIES and same_inequality(a, b, self.expressions):
                return True
            return variables(a) == variables(b) and self._real_sets(a, b)
        relation, other = (a, b) if a[0] == "rel" else (b, a)
        if set(relation[1]) <= {"=", "~="} and len(relation[1]) == 1:
            value = assigned_value(relation, self._nodes, sums=relation is b)
            return value is not None and self._nodes(value, other)
        return self._real_sets(relation, other)

    def _ratios(self, a: Node, b: Node) -> bool:
        if a[0] == b[0] == "ratio":
            if len(a[1]) != len(b[1]):
                return False
            if self._all(a[1], b[1]):
                return True
            if any(_is_minutes(item) for each in (a, b) for item in each[1][1:]):
                return False  # 2:30 is a time
            return all(
                self.expressions.equal(("mul", a[1][0], right), ("mul", b[1][0], left))
                for left, right in zip(a[1][1:], b[1][1:], strict=True)
            )
        ratio, other = (a, b) if a[0] == "ratio" else (b, a)
        if len(ratio[1]) != 2 or other[0] != "div":
            return False
        return self.expressions.equal(("div", *ratio[1]), other)

    def _real_sets(self, a: Node, b: Node) -> bool:
        if variables(a) and variables(b) and a[0] == b[0] and a[0] in ("cup", "cap"):
            left, right = _operands(a), _operands(b)  # the endpoints are not numbers
            return self._matched([Part(n, "") for n in left], [Part(n, "") for n in right], True)
        sets = RealSets(self.budget)
        try:
            return sets.equal(sets.of(a), sets.of(b))
        except (UnparsableError, UndefinedError):
            return False


def _describes_set(answer: Answer) -> bool:
    return any(
        part.node[0] in ("cup", "cap", "setminus", "reals")
        or (part.node[0] == "rel" and set(part.node[1]) & _INEQUALITIES)
        or (part.node[0] == "tuple" and part.node[1:3] not in (("(", ")"), ("[", "]")))
        for part in answer.parts
    )


def _joined(answer: Answer) -> Node:
    """The set that the parts describe together."""
    node = answer.parts[0].node
    for part in answer.parts[1:]:
        both = answer.joined == "and" and node[0] == part.node[0] == "rel"
        node = ("cap" if both or _excludes(part.node) else "cup", node, part.node)
    return node


def _as_matrix(node: Node) -> Node:
    """A nested list, or a multiple of a matrix, as one matrix; other nodes unchanged."""
    if node[0] == "tuple" and node[1] == "[" and all(item[0] == "tuple" and item[1] == "[" for item in node[3]):
        return ("matrix", tuple(item[3] for item in node[3]))
    if node[0] == "neg" and (inner := _as_matrix(node[1]))[0] == "matrix":
        return _each_entry(inner, lambda item: ("neg", item))
    if node[0] in ("mul", "div"):
        left, right = _as_matrix(node[1]), _as_matrix(node[2])
        if right[0] == "matrix" and left[0] != "matrix" and node[0] == "mul":
            return _each_entry(right, lambda item: ("mul", left, item))
        if left[0] == "matrix" and right[0] != "matrix":
            return _each_entry(left, lambda item: (node[0], item, right))
    return node


def _each_entry(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return ("matrix", tuple(tuple(change(item) for item in row) for row in matrix[1]))


def _items(answer: Answer) -> list[Part]:
    if len(answer.parts) == 1 and answer.parts[0].node[0] == "set":
        return [Part(node, "") for node in answer.parts[0].node[1]]
    return list(answer.parts)


def _named_point(answer: Answer) -> Node | None:
    """The point ``(1, 2)`` of ``x = 1, y = 2``; None for other answers, or names out of order."""
    names, values = [], []
    for part in answer.parts:
        if part.node[0] != "rel" or part.node[1] != ("=",) or part.node[2][0][0] != "sym":
            return None
        names.append(part.node[2][0][1])
        values.append(part.node[2][1])
    return ("tuple", "(", ")", tuple(values)) if len(names) > 1 and names == sorted(set(names)) else None


def _letters(node: Node) -> str | None:
    """The words of a text, or the letters of a product of variables, which may be a short word."""
    if node[0] == "text":
        return str(node[1])
    letters = ""
    while node[0] == "mul" and node[2][0] in _LETTERS and len(node[2][1]) == 1:
        letters = node[2][1] + letters
        node = node[1]
    return (str(node[1]) + letters).casefold() if node[0] in _LETTERS and len(node[1]) == 1 else None


def _is_minutes(node: Node) -> bool:
    return bool(node[0] == "num" and 10 <= node[1] < 60)


def _excludes(node: Node) -> bool:
    return bool(node[0] == "rel" and node[1] == ("!=",))


def _operands(node: Node) -> list[Node]:
    return _operands(node[1]) + _operands(node[2]) if node[0] in ("cup", "cap") else [node]
