"""Sets of real numbers in one form, so that the inequality ``x > 2`` is the interval ``(2, \\infty)``."""

from __future__ import annotations

from typing import Any, NamedTuple

from agentopt_local.graders.math.evaluator import Budget, Evaluator
from agentopt_local.graders.math.failures import UnparsableError
from agentopt_local.graders.math.tree import Node, variables


class Interval(NamedTuple):
    """An interval; a single number is ``[a, a]``."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


RealSet = list[Interval]

MAX_INTERVALS = 100

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


class RealSets:
    """Turns trees into sets of real numbers, and does set algebra with them."""

    def __init__(self, budget: Budget) -> None:
        self.numbers = Evaluator(budget, {})
        self.inf = self.numbers.mp.inf
        self.everything = [Interval(-self.inf, False, self.inf, False)]

    def of(self, node: Node) -> RealSet:
        """The set, merged and in order. Raises UnparsableError if the node is not a set of real numbers."""
        kind = node[0]
        if kind == "reals":
            return self.everything
        if kind == "empty":
            return []
        if kind == "tuple":
            return self._interval(node)
        if kind in ("set", "list"):
            items = node[1]
            parts = (self.of(item) if item[0] != "num" else self._point(item) for item in items)
            return self.merge([interval for part in parts for interval in part])
        if kind == "rel":
            return self._relation(node)
        if kind in ("cup", "cap", "setminus"):
            left, right = self.of(node[1]), self.of(node[2])
            if kind == "cup":
                return self.merge(left + right)
            return self.intersect(left, self.complement(right) if kind == "setminus" else right)
        return self._point(node)

    def number(self, node: Node) -> Any:
        """The real number that a tree represents."""
        if variables(node):
            raise UnparsableError("it contains a variable")
        value = self.numbers.real(self.numbers.value(node))
        if self.numbers.mp.im(value) != 0:
            raise UnparsableError("it is not real")
        return self.numbers.mp.re(value)

    def _point(self, node: Node) -> RealSet:
        value = self.number(node)
        return [Interval(value, True, value, True)]

    def _interval(self, node: Node) -> RealSet:
        _, opening, closing, items = node
        if len(items) != 2:
            raise UnparsableError("it is not an interval")
        low, high = self.number(items[0]), self.number(items[1])
        if not low < high:
            raise UnparsableError("it is not an interval")
        return [Interval(low, opening == "[", high, closing == "]")]

    def _relation(self, node: Node) -> RealSet:
        _, operators, operands = node
        names = {operand for operand in operands if variables(operand)}
        if len(names) != 1 or next(iter(names))[0] != "sym":
            raise UnparsableError("it does not bound a variable")
        found = self.everything
        for left, operator, right in zip(operands, operators, operands[1:], strict=False):
            if operator not in _FLIPPED:
                raise UnparsableError(f"{operator!r} is not a bound")
            if variables(left):
                found = self.intersect(found, self._bound(operator, right))
            elif variables(right):
                found = self.intersect(found, self._bound(_FLIPPED[operator], left))
            else:
                raise UnparsableError("it does not bound a variable")
        return found

    def _bound(self, operator: str, node: Node) -> RealSet:
        value = self.number(node)
        finite = not self.numbers.mp.isinf(value)
        match operator:
            case "=":
                return [Interval(value, True, value, True)]
            case "!=":
                return self.complement([Interval(value, True, value, True)])
            case "<" | "<=":
                return [Interval(-self.inf, False, value, operator == "<=" and finite)]
        return [Interval(value, operator == ">=" and finite, self.inf, False)]

    def _same(self, a: Any, b: Any) -> bool:
        if self.numbers.mp.isinf(a) or self.numbers.mp.isinf(b):
            return bool(a == b)
        return bool(abs(a - b) <= self.numbers.mp.mpf(2) ** -300 * max(1, abs(a), abs(b)))

    def merge(self, intervals: RealSet) -> RealSet:
        """The intervals in order, with those that touch or overlap joined."""
        if len(intervals) > MAX_INTERVALS:
            raise UnparsableError("it has too many parts")
        merged: RealSet = []
        for item in sorted(intervals, key=lambda item: (item.low, not item.low_closed)):
            last = merged[-1] if merged else None
            touches = last is not None and self._same(last.high, item.low) and (last.high_closed or item.low_closed)
            if last is None or not (item.low < last.high or touches) or (self._same(last.high, item.low) > touches):
                merged.append(item)
                continue
            if self._same(item.high, last.high):
                merged[-1] = last._replace(high_closed=last.high_closed or item.high_closed)
            elif item.high > last.high:
                merged[-1] = last._replace(high=item.high, high_closed=item.high_closed)
        return merged

    def complement(self, intervals: RealSet) -> RealSet:
        """All real numbers not in the set."""
        found: RealSet = []
        low, closed = -self.inf, False
        for interval in self.merge(intervals):
            if low < interval.low or (closed and not interval.low_closed and low == interval.low):
                found.append(Interval(low, closed, interval.low, not interval.low_closed))
            low, closed = interval.high, not interval.high_closed
        if low < self.inf:
            found.append(Interval(low, closed and low > -self.inf, self.inf, False))
        return found

    def intersect(self, left: RealSet, right: RealSet) -> RealSet:
        """The real numbers in both sets."""
        return self.complement(self.merge(self.complement(left) + self.complement(right)))

    def equal(self, left: RealSet, right: RealSet) -> bool:
        """Whether two merged sets are equal."""
        return len(left) == len(right) and all(
            self._same(a.low, b.low)
            and self._same(a.high, b.high)
            and a.low_closed == b.low_closed
            and a.high_closed == b.high_closed
            for a, b in zip(left, right, strict=True)
        )
