"""Official rules, for answers of agents."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from agentopt_local.grading import Grade
from agentopt_local.wrapping import unwrapped_for


def of_bare_answers(rule: Callable[..., Grade]) -> Callable[..., Grade]:
    """A grader that applies ``rule``, which knows nothing of agents, to the answer without what stands around it.

    Thoughts, our tags, Markdown and boxes are taken off; ``rule`` itself takes them for a part of the answer.
    """

    @functools.wraps(rule)
    def grade(answer: str, expected: str, **row: Any) -> Grade:
        return rule(unwrapped_for(expected, answer), expected, **row)

    return grade
