"""Before and after on the same held-out problems, with intervals: what a training is judged by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.rollout import accuracy
from agentopt_local.statistics import paired_difference, wilson
from agentopt_local.trainer import sum_usage
from agentopt_local.trajectory import Trajectory, function_use


def compare(
    problems: Sequence[Problem], before: Sequence[Trajectory], after: Sequence[Trajectory], *, seed: int = 0
) -> dict[str, Any]:
    """The ``test`` part of a report. ``before`` and ``after`` are of the same ``problems``, in their order."""
    difference = paired_difference([each.correct for each in before], [each.correct for each in after], seed=seed)
    return {
        "n": len(problems),
        "before": side(before),
        "after": side(after),
        "difference": {
            "points": round(difference.points, 2),
            "ci95": [round(bound, 2) for bound in difference.ci95],
            "p_value": difference.p_value,
            "gained": difference.gained,
            "lost": difference.lost,
        },
        "kinds": kinds(problems, before, after),
    }


def side(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Accuracy with its 95 % Wilson interval, tokens, calls and how attempts ended, of one function set."""
    low, high = wilson(sum(each.correct for each in trajectories), len(trajectories))
    stops: dict[str, int] = defaultdict(int)
    for each in trajectories:
        stops[each.stop_reason] += 1
    exact = [each.grade.exact for each in trajectories if each.grade is not None and each.grade.exact is not None]
    return {
        "accuracy": round(accuracy(trajectories), 4),
        "ci95": [round(low, 4), round(high, 4)],
        "correct": sum(each.correct for each in trajectories),
        **({"exact": sum(exact)} if exact else {}),
        "tokens": sum_usage(trajectories).model_dump(),
        "turns": sum(len(each.steps) for each in trajectories),
        "stop_reasons": dict(sorted(stops.items())),
    }


def kinds(
    problems: Sequence[Problem], before: Sequence[Trajectory], after: Sequence[Trajectory]
) -> dict[str, dict[str, int]]:
    """Right answers before and after, per kind of problem."""
    rows: dict[str, dict[str, int]] = {}
    for problem, old, new in zip(problems, before, after, strict=True):
        row = rows.setdefault(problem.kind or "all", {"n": 0, "before": 0, "after": 0})
        row["n"] += 1
        row["before"] += old.correct
        row["after"] += new.correct
    return rows


def function_rows(functions: FunctionSet, trajectories: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """How each function fared, by :func:`~agentopt_local.trajectory.function_use`."""
    return [
        {
            "name": function.name,
            "signature": function.signature,
            "description": function.description,
            **function_use(function.name, trajectories),
        }
        for function in functions.each()
    ]
