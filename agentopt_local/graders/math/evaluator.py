"""The values of trees, computed with bounded work.

Rational arithmetic is exact. Everything else has 640 bits, or more where a sum cancels. Every operation is charged to a
budget by the size of its operands, and sizes are limited, so ``9^{9^{9^9}}`` is refused in microseconds, on every
machine alike.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

from agentopt_local.graders.math.failures import UnboundedError, UndefinedError, UnparsableError
from agentopt_local.graders.math.tree import Node

BUDGET = 250_000
"""Units of work for one answer; a unit is about a microsecond."""
MAX_EXACT_BITS = 40_000
MAX_PRECISION = 8_000
PRECISION = 640
MAX_ARGUMENT_BITS = 30
"""Arguments of functions and exponents from 2**30 on are refused."""
MAX_FACTORIAL = 2_000


class Budget:
    """The work left for one answer."""

    def __init__(self, units: int = BUDGET) -> None:
        self.left = units

    def charge(self, units: float) -> None:
        """Spend ``units``. Raises UnboundedError if fewer are left."""
        self.left -= int(units)
        if self.left < 0:
            raise UnboundedError("comparing it takes too much work")


@functools.cache
def _library() -> Any:
    import mpmath

    return mpmath


class Evaluator:
    """Evaluates trees at one point."""

    def __init__(self, budget: Budget, point: dict[str, Fraction], precision: int = PRECISION) -> None:
        """``point``: the values of the variables. ``precision``: in bits."""
        self.budget = budget
        self.point = point
        self.precision = precision
        self.scale_bits = 0
        """The size of the largest value so far, in bits."""
        self.in_trigonometry = 0

    @functools.cached_property
    def mp(self) -> Any:
        """mpmath at this precision; made when the first value is irrational, because that takes a millisecond."""
        context = _library().mp.clone()
        context.prec = self.precision
        return context

    def value(self, node: Node) -> Any:
        """A Fraction, or an mpf or mpc.

        Raises UndefinedError, UnboundedError, or UnparsableError if the node is not a number.
        """
        method = getattr(self, f"_{node[0]}", None)
        if method is None:
            raise UnparsableError(f"a {node[0]} has no value")
        result = method(*node[1:])
        self.budget.charge(self._size(result))
        return result

    def _size(self, value: Any) -> int:
        """The cost of a value in units of work. Raises UnboundedError if it is too large."""
        if isinstance(value, Fraction):
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            if bits > MAX_EXACT_BITS:
                raise UnboundedError("a number in it is too large")
            self.scale_bits = max(self.scale_bits, value.numerator.bit_length() - value.denominator.bit_length())
            return 1 + bits // 64
        if self.mp.isnan(value):
            raise UndefinedError("it has no value")
        if not self.mp.isinf(value):
            magnitude = self.mp.mag(value) if value else 0
            if abs(magnitude) > 1 << 20:
                raise UnboundedError("a number in it is too large")
            self.scale_bits = max(self.scale_bits, int(magnitude))
        return 10

    def real(self, value: Any) -> Any:
        """``value`` as a number of mpmath."""
        if isinstance(value, Fraction):
            return self.mp.mpf(value.numerator) / value.denominator
        return value

    def _num(self, value: Fraction) -> Any:
        return value

    def _sym(self, name: str) -> Any:
        return self.point[name]

    def _text(self, name: str) -> Any:
        return self.point[f'"{name}']

    def _const(self, name: str) -> Any:
        if name == "i":
            return self.mp.mpc(0, 1)
        return self.mp.inf if name == "inf" else +getattr(self.mp, name)

    def _pair(self, a: Node, b: Node) -> tuple[Any, Any]:
        left, right = self.value(a), self.value(b)
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return left, right
        return self.real(left), self.real(right)

    def _add(self, a: Node, b: Node) -> Any:
        left, right = self._pair(a, b)
        return left + right

    def _mul(self, a: Node, b: Node) -> Any:
        left, right = self._pair(a, b)
        return left * right

    def _div(self, a: Node, b: Node) -> Any:
        left, right = self._pair(a, b)
        if right == 0 or (not isinstance(right, Fraction) and self.mp.mag(right) < -self.mp.prec // 2):
            raise UndefinedError("it divides by zero")
        return left / right

    def _neg(self, a: Node) -> Any:
        return -self.value(a)

    def _pm(self, sign: int, index: int, a: Node) -> Any:
        raise UnparsableError("a plus-minus has two values")

    def _abs(self, a: Node) -> Any:
        return abs(self.value(a))

    def _deg(self, a: Node) -> Any:
        value = self.value(a)
        return self.real(value) * self.mp.pi / 180 if self.in_trigonometry else value

    def _fact(self, a: Node) -> Any:
        n = self.value(a)
        if not isinstance(n, Fraction) or n.denominator != 1 or n < 0:
            raise UndefinedError("it is the factorial of a number that is not whole")
        if n > MAX_FACTORIAL:
            raise UnboundedError("a factorial in it is too large")
        self.budget.charge(int(n))
        return Fraction(math.factorial(int(n)))

    def _binom(self, n: Node, k: Node) -> Any:
        top, bottom = self._pair(n, k)
        if not isinstance(top, Fraction) or top.denominator != 1 or bottom.denominator != 1:
            raise UndefinedError("it is a binomial of numbers that are not whole")
        if max(abs(top), abs(bottom)) > MAX_FACTORIAL:
            raise UnboundedError("a binomial in it is too large")
        self.budget.charge(int(abs(top)))
        return Fraction(math.comb(int(top), int(bottom))) if top >= 0 and bottom >= 0 else Fraction(0)

    def _root(self, a: Node, n: Node) -> Any:
        index = self.value(n)
        if not isinstance(index, Fraction) or not index:
            raise UndefinedError("it is a root whose order is not a rational number")
        return self._raise(self.value(a), 1 / index)

    def _pow(self, a: Node, b: Node) -> Any:
        return self._raise(self.value(a), self.value(b))

    def _raise(self, base: Any, exponent: Any) -> Any:
        if isinstance(exponent, Fraction):
            if base == 0 and exponent <= 0:
                if exponent == 0:
                    return Fraction(1)
                raise UndefinedError("it divides by zero")
            if isinstance(base, Fraction):
                exact = self._exact_power(base, exponent)
                if exact is not None:
                    return exact
            self.budget.charge(40)
            if abs(exponent) >= 1 << MAX_ARGUMENT_BITS:
                raise UnboundedError("an exponent in it is too large")
            number = self.real(base)
            if exponent.denominator == 1:
                return number ** int(exponent)
            if exponent.denominator % 2 and self.mp.im(number) == 0 and number < 0:
                # In these problems the odd roots of negative numbers are the real ones.
                return (-1) ** exponent.numerator * (-number) ** self.real(exponent)
            return number ** self.real(exponent)
        self.budget.charge(40)
        number = self.real(base)
        if number == 0:
            raise UndefinedError("it is a power of zero")
        self._check_argument(exponent)
        return number**exponent

    def _exact_power(self, base: Fraction, exponent: Fraction) -> Fraction | None:
        """The exact power, or None if it is irrational or left to mpmath."""
        if base in (0, 1):
            return base
        if exponent.denominator == 1:
            if base == -1:
                return Fraction(-1) if exponent.numerator % 2 else Fraction(1)
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > MAX_EXACT_BITS:
                raise UnboundedError("a power in it is too large")
            return Fraction(base ** int(exponent))
        if exponent.denominator > 64 or (base < 0 and exponent.denominator % 2 == 0):
            return None
        order, sign = exponent.denominator, -1 if base < 0 else 1
        self.budget.charge((base.numerator.bit_length() + base.denominator.bit_length()) // 64)
        top, bottom = _integer_root(abs(base.numerator), order), _integer_root(base.denominator, order)
        if top is None or bottom is None:
            return None
        return self._exact_power(Fraction(sign * top, bottom), Fraction(exponent.numerator))

    def _check_argument(self, value: Any) -> None:
        if not self.mp.isinf(value) and value and self.mp.mag(value) > MAX_ARGUMENT_BITS:
            raise UnboundedError("an argument in it is too large")

    def _log(self, base: Node, argument: Node) -> Any:
        b, value = self.value(base), self.value(argument)
        self.budget.charge(80)
        if value == 0 or b in (0, 1):
            raise UndefinedError("it is the logarithm of zero")
        return self.mp.log(self.real(value)) / self.mp.log(self.real(b))

    def _fn(self, name: str, argument: Node) -> Any:
        if name in ("gcd", "lcm", "max", "min"):
            return self._several(name, argument)
        trigonometric = name[:3] in ("sin", "cos", "tan", "sec", "csc", "cot")
        self.in_trigonometry += trigonometric
        value = self.value(argument)
        self.in_trigonometry -= trigonometric
        if name in ("floor", "ceil"):
            number = value if isinstance(value, Fraction) else self.real(value)
            return (
                Fraction(int(getattr(math, name)(number)))
                if isinstance(number, Fraction)
                else getattr(self.mp, name)(number)
            )
        if name == "abs":
            return abs(value)
        self.budget.charge(80)
        number = self.real(value)
        self._check_argument(number)
        name = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccsc": "acsc", "arcsec": "asec",
                "arccot": "acot", "lg": "log10"}.get(name, name)  # fmt: skip
        try:
            return getattr(self.mp, name)(number)
        except (ZeroDivisionError, ValueError):
            raise UndefinedError("a function in it has no value") from None

    def _several(self, name: str, argument: Node) -> Any:
        if argument[0] != "tuple":
            raise UnparsableError(f"{name} needs several numbers")
        values = [self.value(item) for item in argument[3]]
        if not all(isinstance(value, Fraction) for value in values):
            raise UnparsableError(f"{name} is only defined here for rational numbers")
        if name in ("max", "min"):
            return max(values) if name == "max" else min(values)
        if any(value.denominator != 1 for value in values):
            raise UndefinedError(f"{name} of numbers that are not whole")
        return Fraction(getattr(math, name)(*(int(value) for value in values)))


def _integer_root(value: int, order: int) -> int | None:
    """The ``order``-th root of ``value`` if it is whole, or None."""
    if value < 2:
        return value
    if order == 2:
        root = math.isqrt(value)
    else:  # Newton's method, from above
        root, following = 0, 1 << -(-value.bit_length() // order)
        while root == 0 or following < root:
            root = following
            following = ((order - 1) * root + value // root ** (order - 1)) // order
    return root if root**order == value else None
