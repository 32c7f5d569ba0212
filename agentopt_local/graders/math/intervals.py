"""Sets of real numbers: intervals, unions and inequalities in one form, so that ``x > 2`` is ``(2, \\infty)``."""

from __future__ import annotations

from typing import Any, NamedTuple

from agentopt_local.graders.cursor import Node
from agentopt_local.graders.evaluate import Budget, Evaluator
from agentopt_local.graders.latex import UnparsableError
from agentopt_local.graders.points import symbols


class Span(NamedTuple):
    """An interval; one number is ``[a, a]``."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


RealSet = list[Span]

MAX_SPANS = 100

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


class Reals:
    """Makes real sets of trees."""

    def __init__(self, budget: Budget) -> None:
        self.numbers = Evaluator(budget, {})
        self.inf = self.numbers.mp.inf
        self.everything = [Span(-self.inf, False, self.inf, False)]

    def of(self, node: Node) -> RealSet:
        """The set, merged and in order. Raises UnparsableError for what is no set of real numbers."""
        kind = node[0]
        if kind == "reals":
            return self.everything
        if kind == "empty":
            return []
        if kind == "tuple":
            return self._interval(node)
        if kind in ("set", "list"):
            items = node[1]
            spans = [span for item in items for span in (self.of(item) if item[0] != "num" else self._point(item))]
            return self.merge(spans)
        if kind == "rel":
            return self._relation(node)
        if kind in ("cup", "cap", "setminus"):
            left, right = self.of(node[1]), self.of(node[2])
            if kind == "cup":
                return self.merge(left + right)
            return self.intersect(left, self.complement(right) if kind == "setminus" else right)
        return self._point(node)

    def number(self, node: Node) -> Any:
        """The real number that a tree stands for."""
        if symbols(node):
            raise UnparsableError("it holds a variable")
        value = self.numbers.real(self.numbers.value(node))
        if self.numbers.mp.im(value) != 0:
            raise UnparsableError("it is not real")
        return self.numbers.mp.re(value)

    def _point(self, node: Node) -> RealSet:
        value = self.number(node)
        return [Span(value, True, value, True)]

    def _interval(self, node: Node) -> RealSet:
        _, opening, closing, items = node
        if len(items) != 2:
            raise UnparsableError("it is no interval")
        low, high = self.number(items[0]), self.number(items[1])
        if not low < high:
            raise UnparsableError("it is no interval")
        return [Span(low, opening == "[", high, closing == "]")]

    def _relation(self, node: Node) -> RealSet:
        _, operators, operands = node
        names = {operand for operand in operands if symbols(operand)}
        if len(names) != 1 or next(iter(names))[0] != "sym":
            raise UnparsableError("it bounds no variable")
        found = self.everything
        for left, operator, right in zip(operands, operators, operands[1:], strict=False):
            if operator not in _FLIPPED:
                raise UnparsableError(f"{operator!r} bounds nothing")
            if symbols(left):
                found = self.intersect(found, self._bound(operator, right))
            elif symbols(right):
                found = self.intersect(found, self._bound(_FLIPPED[operator], left))
            else:
                raise UnparsableError("it bounds no variable")
        return found

    def _bound(self, operator: str, node: Node) -> RealSet:
        value = self.number(node)
        finite = not self.numbers.mp.isinf(value)
        match operator:
            case "=":
                return [Span(value, True, value, True)]
            case "!=":
                return self.complement([Span(value, True, value, True)])
            case "<" | "<=":
                return [Span(-self.inf, False, value, operator == "<=" and finite)]
        return [Span(value, operator == ">=" and finite, self.inf, False)]

    def _same(self, a: Any, b: Any) -> bool:
        if self.numbers.mp.isinf(a) or self.numbers.mp.isinf(b):
            return bool(a == b)
        return bool(abs(a - b) <= self.numbers.mp.mpf(2) ** -300 * max(1, abs(a), abs(b)))

    def merge(self, spans: RealSet) -> RealSet:
        """Spans in order, with those that touch made one."""
        if len(spans) > MAX_SPANS:
            raise UnparsableError("it has too many parts")
        merged: RealSet = []
        for span in sorted(spans, key=lambda span: (span.low, not span.low_closed)):
            last = merged[-1] if merged else None
            touches = last is not None and self._same(last.high, span.low) and (last.high_closed or span.low_closed)
            if last is None or not (span.low < last.high or touches) or (self._same(last.high, span.low) > touches):
                merged.append(span)
                continue
            if self._same(span.high, last.high):
                merged[-1] = last._replace(high_closed=last.high_closed or span.high_closed)
            elif span.high > last.high:
                merged[-1] = last._replace(high=span.high, high_closed=span.high_closed)
        return merged

    def complement(self, spans: RealSet) -> RealSet:
        """All other real numbers."""
        found: RealSet = []
        low, closed = -self.inf, False
        for span in self.merge(spans):
            if low < span.low or (closed and not span.low_closed and low == span.low):
                found.append(Span(low, closed, span.low, not span.low_closed))
            low, closed = span.high, not span.high_closed
        if low < self.inf:
            found.append(Span(low, closed and low > -self.inf, self.inf, False))
        return found

    def intersect(self, left: RealSet, right: RealSet) -> RealSet:
        """What both have."""
        return self.complement(self.merge(self.complement(left) + self.complement(right)))

    def equal(self, left: RealSet, right: RealSet) -> bool:
        """Whether two merged sets are the same."""
        return len(left) == len(right) and all(
            self._same(a.low, b.low)
            and self._same(a.high, b.high)
            and a.low_closed == b.low_closed
            and a.high_closed == b.high_closed
            for a, b in zip(left, right, strict=True)
        )
