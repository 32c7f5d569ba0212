"""Grades, and how a grader's result becomes one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from pydantic import Field

from agentopt_local.errors import ConfigError, outcome
from agentopt_local.problem import Problem
from agentopt_local.record import Record

_QUOTED_CHARS = 80
"""Longest excerpt of an answer that a reason quotes."""


class Grade(Record):
    """The verdict on one answer."""

    reward: float = Field(ge=0.0, le=1.0, allow_inf_nan=False)
    """From 0 (wrong) to 1 (right); some graders give partial credit in between."""
    reason: str
    """Why, in words for the optimizer."""
    exact: bool | None = None
    """Whether the answer is also character for character the expected one, where a task reports that separately."""

    @property
    def correct(self) -> bool:
        """Whether the reward is 1, up to rounding."""
        return self.reward >= 1.0 - 1e-9


Grader = Callable[[str, str], Any]
"""A grading function ``(answer, expected)``; it may return a bool, a float in [0, 1] or a Grade."""


def no_answer(answer: str | None) -> Grade | None:
    """The grade of a missing or blank answer; None if there is something to grade."""
    return Grade(reward=0.0, reason="no answer was given") if answer is None or not answer.strip() else None


def right_or_wrong(right: bool, answer: str, expected: str) -> Grade:
    """Reward 1 or 0, with a reason that quotes a wrong answer."""
    if right:
        return Grade(reward=1.0, reason="correct")
    return Grade(reward=0.0, reason=f"answered {quote(answer)}; expected {quote(expected)}")


def apply_grader(name: str, grader: Grader, problem: Problem, answer: str | None) -> Grade:
    """Grade ``answer``. A missing or blank answer gets reward 0 without calling ``grader``.

    Raises :class:`~agentopt_local.errors.ConfigError` if ``grader`` raises, or returns anything but a bool, a float in
    [0, 1] or a Grade: a broken grader must stop the run, not count as a wrong answer.
    """
    answer = answer or ""
    if missing := no_answer(answer):
        return missing
    given = answer
    result, error = outcome(lambda: grader(given, problem.answer))
    if error is not None:
        raise ConfigError(
            f"grader {name!r} raised {type(error).__name__}: {error} on problem {problem.id!r}, "
            f"answer {quote(answer)}. A grader must return a bool, a float or a Grade for every text"
        ) from error
    if isinstance(result, Grade):
        return result
    if isinstance(result, bool):
        return right_or_wrong(result, answer, problem.answer)
    if inspect.iscoroutine(result):
        result.close()
    try:
        reward = math.nan if result is None else float(result)
    except (TypeError, ValueError):
        reward = math.nan
    if not 0.0 <= reward <= 1.0 or isinstance(result, str):
        raise ConfigError(
            f"grader {name!r} returned {quote(repr(result))} on problem {problem.id!r}; "
            f"it must return a bool, a float from 0 to 1, or a Grade"
        )
    return Grade(reward=reward, reason=f"{quote(answer)} has reward {reward:g}; expected {quote(problem.answer)}")


def quote(text: str) -> str:
    """``text`` in quotation marks, cut to a length that fits in a reason."""
    text = text.strip()
    return repr(text if len(text) <= _QUOTED_CHARS else text[: _QUOTED_CHARS - 1] + "…")
