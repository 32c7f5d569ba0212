"""Answers as trees.

A node is a tuple whose first item names it::

    ("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i" | "inf")  ("add", a, b)  ("mul", a, b)  ("div", a, b)
    ("neg", a)  ("pow", a, b)  ("root", a, n)  ("fn", name, argument)  ("log", base, argument)  ("abs", a)  ("deg", a)
    ("fact", a)  ("binom", n, k)  ("pm", sign, index, a): the sign + or - of the answer's index-th plus-minus
    ("tuple", open, close, items)  ("set", items)  ("matrix", rows)  ("ratio", items)  ("based", digits, base)
    ("rel", operators, operands)  ("cup" | "cap" | "setminus", a, b)  ("reals",)  ("empty",)  ("text", canonical text)
"""

from __future__ import annotations

from typing import Any

from agentopt_local.graders.math.failures import UnparsableError

Node = tuple[Any, ...]

MAX_HEIGHT = 120
"""The tallest tree accepted; sums and products grow by one level with each term."""


def checked_height(node: Node) -> Node:
    """``node``. Raises UnparsableError if the tree is taller than ``MAX_HEIGHT``; found without recursion."""
    level = [node]
    for _ in range(MAX_HEIGHT):
        level = [inner for each in level for inner in each if isinstance(inner, tuple)]
        if not level:
            return node
    raise UnparsableError("the answer is too long")


def variables(node: Any) -> set[str]:
    """The names of the variables in a tree; a text's name starts with a quotation mark."""
    if not isinstance(node, tuple):
        return set()
    if node and node[0] in ("sym", "text") and len(node) == 2:
        return {node[1] if node[0] == "sym" else f'"{node[1]}'}
    return set().union(*(variables(each) for each in node)) if node else set()
