"""Grades, and how a grader's result becomes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from agentopt_local.errors import ConfigError, outcome
from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.wrapping import spoken_for

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
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


Grader = Callable[..., Any]
"""A grading function ``(answer, expected)`` or ``(answer, expected, row)``, where ``row`` is the problem's row, a dict.

It may return a bool, a float in [0, 1], a pair ``(float, reason)`` or a Grade."""


def no_answer(answer: str | None) -> Grade | None:
    """The grade of a missing or blank answer; None if there is something to grade."""
    return Grade(reward=0.0, reason="no answer was given") if answer is None or not answer.strip() else None


def right_or_wrong(right: bool, answer: str, expected: str) -> Grade:
    """Reward 1 or 0, with a reason that quotes a wrong answer."""
    if right:
        return Grade(reward=1.0, reason="correct")
    return Grade(reward=0.0, reason=f"answered {quote(answer)}; expected {quote(expected)}")


def apply_grader(
    name: str, grader: Grader, problem: Problem, answer: str | None, *, row: Mapping[str, Any] | None = None
) -> Grade:
    """Grade ``answer``. A missing or blank answer gets reward 0 without calling ``grader``.

    Thoughts and our tags around an answer do not reach ``grader``, unless they are expected.

    ``row`` is what a grader with a third parameter is given; None: the problem's own fields with its metadata.

    Raises :class:`~agentopt_local.errors.ConfigError` if ``grader`` raises, or returns anything but a bool, a float in
    [0, 1], such a float with a reason, or a Grade: a broken grader must stop the run, not count as a wrong answer.
    """
    answer = spoken_for(problem.answer, answer or "")
    if missing := no_answer(answer):
        return missing
    given: tuple[Any, ...] = (answer, problem.answer)
    if takes_row(name, grader):
        given = (*given, dict(row_of(problem) if row is None else row))
    result, error = outcome(lambda: grader(*given))
    if error is not None:
        raise ConfigError(
            f"grader {name!r} raised {type(error).__name__}: {error} on problem {problem.id!r}, "
            f"answer {quote(answer)}. A grader must return a bool, a float or a Grade for every text"
        ) from error
    return as_grade(name, result, problem, answer)


def takes_row(name: str, grader: Grader) -> bool:
    """Whether ``grader`` wants the row: it has a third parameter that has no default or is called ``row``.

    Raises :class:`~agentopt_local.errors.ConfigError` if it can be called neither with two arguments nor with three.
    """
    try:
        signature = inspect.signature(grader)
    except (TypeError, ValueError):  # some built-in functions have none
        return False
    positional = [each for each in signature.parameters.values() if each.kind in _POSITIONAL]
    third = positional[2] if len(positional) > 2 else None
    wanted = third is not None and (third.default is third.empty or third.name == "row")
    try:
        signature.bind(*("answer", "expected", "row")[: 3 if wanted else 2])
    except TypeError as error:
        raise ConfigError(
            f"grader {name!r} cannot be called with (answer, expected) or (answer, expected, row): {error}"
        ) from None
    return wanted


def row_of(problem: Problem) -> dict[str, Any]:
    """The problem's own fields and its metadata."""
    return {**problem.model_dump(include={"id", "kind", "question", "answer"}), **problem.metadata}


def as_grade(name: str, result: Any, problem: Problem, answer: str) -> Grade:
    """What the grader called ``name`` returned, as a Grade. Raises ConfigError if it is nothing that a grader may."""
    if isinstance(result, Grade):
        return result
    if isinstance(result, bool):
        return right_or_wrong(result, answer, problem.answer)
    if inspect.iscoroutine(result):
        result.close()
    paired = isinstance(result, tuple) and len(result) == 2
    value, reason = result if paired else (result, "")
    reward = outcome(lambda: float(value))[0]
    if reward is None or not 0.0 <= reward <= 1.0 or isinstance(value, str) or not isinstance(reason, str):
        raise ConfigError(
            f"grader {name!r} returned {quote(repr(result))} on problem {problem.id!r}; it must return a bool, a float "
            "from 0 to 1, a pair (float, reason), or a Grade"
        )
    default = f"{quote(answer)} has reward {reward:g}; expected {quote(problem.answer)}"
    return Grade(reward=reward, reason=reason if paired else default)


def quote(text: str) -> str:
    """``text`` in quotation marks, cut to a length that fits in a reason."""
    text = text.strip()
    return repr(text if len(text) <= _QUOTED_CHARS else text[: _QUOTED_CHARS - 1] + "…")
