"""Equations: what an assignment such as ``x = 5`` or ``f(x) = 2x`` gives, and when two equations are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentopt_local.graders.cursor import Node
from agentopt_local.graders.points import symbols

if TYPE_CHECKING:
    from agentopt_local.graders.compare import Comparison


def chain(node: Node) -> Node:
    """``x = 1/2 = 0.5`` as ``x = 0.5``; other nodes as they are."""
    if node[0] == "rel" and len(node[1]) > 1 and set(node[1]) <= {"=", "~="}:
        return ("rel", ("=",), (node[2][0], node[2][-1]))
    return node


def is_name(node: Node, sums: bool) -> bool:
    """Whether a left side only names what the right side is: ``x``, ``f(x)``, ``AB``, ``(x, y)``, ``x + y``."""
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
    # A sum of several unknowns, as in "find x + y"; but 2x = 5 does not name 5.
    return sums and len(symbols(node)) > 1 and not _has_coefficient(node)


def _has_coefficient(node: Node) -> bool:
    if node[0] == "num":
        return True
    inner = node[1:2] if node[0] == "pow" else node[1:]
    return any(_has_coefficient(each) for each in inner if isinstance(each, tuple))


def assigned_value(comparison: Comparison, relation: Node, *, sums: bool) -> Node | None:
    """The value that an equation gives; None if it is an equation to be solved. ``sums``: x + y = 5 gives 5."""
    left: Node = relation[2][0]
    right: Node = relation[2][1]
    if is_name(left, sums) or (left[0] == "const" and left[1] in ("e", "i")):
        return right
    if right[0] == "sym" and not symbols(left):
        return left  # 5 = x
    if not symbols(left) and not symbols(right) and comparison.nodes(left, right):
        return right  # 2 + 3 = 5
    return None


def same_equation(comparison: Comparison, a: Node, b: Node) -> bool:
    """Whether two equations have the same left and right sides, or are multiples of each other."""
    (a_left, a_right), (b_left, b_right) = a[2], b[2]
    if comparison.nodes(a_left, b_left) and comparison.nodes(a_right, b_right):
        return True
    if {a_left[0], b_left[0]} & {"tuple", "text"}:
        return False
    y = ("sym", "y")
    if _is_call(a_left) and b_left == y:
        a_left = y
    elif _is_call(b_left) and a_left == y:
        b_left = y
    f, g = ("add", a_left, ("neg", a_right)), ("add", b_left, ("neg", b_right))
    return comparison.ratio(f, g) != 0


def _is_call(node: Node) -> bool:
    return node[0] == "mul" and node[1][0] == node[2][0] == "sym" and node[1][1] in "fghpqPQ"
