"""Whether two expressions have the same value, whatever their variables are.

Values are compared exactly where they are rational and to several hundred bits elsewhere, at fixed points. Two
different expressions of a few hundred characters do not agree at all of these points by chance.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from agentopt_local.graders.math.evaluator import MAX_PRECISION, PRECISION, Budget, Evaluator
from agentopt_local.graders.math.failures import UnboundedError, UndefinedError
from agentopt_local.graders.math.sample_points import sample_points
from agentopt_local.graders.math.tree import Node, variables

_N_POINTS = 7


class Expressions:
    """Compares expressions within one budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def equal(self, a: Node, b: Node) -> bool:
        """Whether ``a`` and ``b`` have the same value at all points.

        Raises UnboundedError, or UnparsableError if one of them is not a number.
        """
        names = variables(a) | variables(b)
        if not names:
            return self._compare_at({}, a, b) == "same"
        verdicts = [self._compare_at(point, a, b) for point in sample_points(names, _N_POINTS)]
        if "different" in verdicts:
            return False
        # Where neither value is real, they may be different branches of a root: then real points decide, if any.
        same = verdicts.count("same")
        return same >= 3 or (same > 0 and "branch" in verdicts and "undefined" not in verdicts)

    def _compare_at(self, point: dict[str, Fraction], a: Node, b: Node) -> str:
        """``same``, ``different``, ``branch`` (negatives of each other, neither of them real) or ``undefined``."""
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

    def sign_of_ratio(self, f: Node, g: Node) -> int:
        """The sign, 1 or -1, of ``f / g`` if that is the same nonzero constant at all points; otherwise 0."""
        found: Any = None
        for point in sample_points(variables(f) | variables(g), _N_POINTS):
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
