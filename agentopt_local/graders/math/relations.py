"""Equations and inequalities: the value that ``x = 5`` or ``f(x) = 2x`` assigns, and when two of them are the same."""

from __future__ import annotations

from collections.abc import Callable

from agentopt_local.graders.math.expressions import Expressions
from agentopt_local.graders.math.tree import Node, variables

Same = Callable[[Node, Node], bool]
"""Whether two trees of any kind are equivalent."""

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}


def shortened(node: Node) -> Node:
    """``x = 1/2 = 0.5`` as ``x = 0.5``; other nodes unchanged."""
    if node[0] == "rel" and len(node[1]) > 1 and set(node[1]) <= {"=", "~="}:
        return ("rel", ("=",), (node[2][0], node[2][-1]))
    return node


def assigned_value(relation: Node, same: Same, *, sums: bool) -> Node | None:
    """The value that an equation assigns; None if it is an equation to be solved. ``sums``: x + y = 5 assigns 5."""
    left: Node = relation[2][0]
    right: Node = relation[2][1]
    if _is_name(left, sums) or (left[0] == "const" and left[1] in ("e", "i")):
        return right
    if right[0] == "sym" and not variables(left):
        return left  # 5 = x
    if not variables(left) and not variables(right) and same(left, right):
        return right  # 2 + 3 = 5
    return None


def same_equation(a: Node, b: Node, same: Same, expressions: Expressions) -> bool:
    """Whether two equations have the same left and right sides or are multiples of each other."""
    (a_left, a_right), (b_left, b_right) = a[2], b[2]
    if same(a_left, b_left) and same(a_right, b_right):
        return True
    if {a_left[0], b_left[0]} & {"tuple", "text"}:
        return False
    y = ("sym", "y")
    if _is_call(a_left) and b_left == y:
        a_left = y
    elif _is_call(b_left) and a_left == y:
        b_left = y
    f, g = ("add", a_left, ("neg", a_right)), ("add", b_left, ("neg", b_right))
    return expressions.sign_of_ratio(f, g) != 0


def same_inequality(a: Node, b: Node, expressions: Expressions) -> bool:
    """Whether two simple inequalities are multiples of each other, flipped if the factor is negative."""
    if len(a[1]) != 1 or len(b[1]) != 1:
        return False
    (first,), (second,) = a[1], b[1]
    f, g = (("add", each[2][0], ("neg", each[2][1])) for each in (a, b))
    sign = expressions.sign_of_ratio(f, g)
    return sign != 0 and bool(first == (second if sign > 0 else _FLIPPED[second]))


def _is_name(node: Node, sums: bool) -> bool:
    """Whether a left side only names the right side: ``x``, ``f(x)``, ``AB``, ``(x, y)``, ``x + y``."""
    kind = node[0]
    if kind in ("sym", "text"):
        return True
    if kind == "tuple":
        return all(item[0] == "sym" for item in node[3])
    if kind == "mul":
        first = node[1]
        while first[0] == "mul":
            first = first[1]
        return bool(first[0] == "sym")
    if kind == "abs" or (kind == "fn" and node[2][0] in ("sym", "deg")):
        return True
    # A sum of several unknowns, as in "find x + y"; but 2x = 5 does not assign 5.
    return sums and len(variables(node)) > 1 and not _has_coefficient(node)


def _has_coefficient(node: Node) -> bool:
    if node[0] == "num":
        return True
    inner = node[1:2] if node[0] == "pow" else node[1:]
    return any(_has_coefficient(each) for each in inner if isinstance(each, tuple))


def _is_call(node: Node) -> bool:
    return node[0] == "mul" and node[1][0] == node[2][0] == "sym" and node[1][1] in "fghpqPQ"
