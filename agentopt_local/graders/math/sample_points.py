"""The variables of a tree, and the fixed points at which expressions are compared."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any


def symbols(node: Any) -> set[str]:
    """The names of the variables in a tree."""
    if not isinstance(node, tuple):
        return set()
    if node and node[0] in ("sym", "text") and len(node) == 2:
        return {node[1] if node[0] == "sym" else f'"{node[1]}'}
    return set().union(*(symbols(each) for each in node)) if node else set()


def points(names: set[str], count: int) -> list[dict[str, Fraction]]:
    """``count`` fixed points: the same for the same names. Half of them have all variables positive."""
    found = []
    for index in range(count):
        point = {}
        for name in sorted(names):
            generator = random.Random(f"{name}/{index}")
            value = Fraction(generator.randrange(101, 997), 331)
            point[name] = -value if index % 2 and generator.random() < 0.6 else value
        found.append(point)
    return found
