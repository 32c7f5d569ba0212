"""The grader of MATH: whether two final answers are mathematically equivalent.

``lexer`` (tokens) → ``parser`` (one expression as a tree) → ``answer_parser`` (a whole answer: parts and their units) →
``equivalence``, which compares values (``evaluator`` at ``sample_points``), real sets (``intervals``), and equations
and inequalities (``relations``). ``grader`` has the two graders and their conventions.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentopt_local.graders.math.grader import math, math_exact
from agentopt_local.grading import Grader

__all__ = ["GRADERS", "math", "math_exact"]

GRADERS: Mapping[str, Grader] = {"math": math, "math_exact": math_exact}
