"""The fixed points at which expressions are compared."""

from __future__ import annotations

import random
from fractions import Fraction


def sample_points(names: set[str], count: int) -> list[dict[str, Fraction]]:
    """``count`` values for the variables ``names``, always the same. In half of the points all are positive."""
    found = []
    for index in range(count):
        point = {}
        for name in sorted(names):
            generator = random.Random(f"{name}/{index}")
            value = Fraction(generator.randrange(101, 997), 331)
            point[name] = -value if index % 2 and generator.random() < 0.6 else value
        found.append(point)
    return found
