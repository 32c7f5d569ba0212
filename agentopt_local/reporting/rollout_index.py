"""The list of rollouts that readers of a report can filter, and the rollouts themselves, in chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentopt_local.problem import Split
from agentopt_local.run.reader import RunFiles
from agentopt_local.run.rows import RolloutRow
from agentopt_local.trajectory import ToolRun, Trajectory

Row = dict[str, Any]
ByProblem = Mapping[str, Trajectory]
CHUNK = 100
"""Rollouts or questions per chunk."""
PREVIEW_CHARS = 120
"""Characters of a question in the list of rollouts."""


def index(
    run: RunFiles, names: Sequence[str], splits: Mapping[Split, tuple[ByProblem, ByProblem]]
) -> tuple[Row, list[Any]]:
    """The list of rollouts, with codes for repeated texts, and the questions in the order of their codes.

    A rollout is ``[stage, problem, reward, stop reason, functions called, turns, generated tokens, seconds, change]``;
    ``change`` is 1 for a problem that the trained agent gained, -1 for one that it lost.
    """
    stages, problems, stops = Codes(), Codes(), Codes()
    function_codes = {name: code for code, name in enumerate(names)}
    rows = []
    for each in run.rollouts:
        trajectory = each.trajectory
        called = sorted({function_codes[call.name] for call in trajectory.calls if call.name in function_codes})
        rows.append(
            [
                stages.code(str(each.stage)),
                problems.code(trajectory.problem_id),
                round(trajectory.grade.reward, 4),
                stops.code(trajectory.stop_reason),
                called,
                len(trajectory.steps),
                trajectory.usage.completion_tokens,
                round(trajectory.wall_s, 2),
                change(each, splits),
            ]
        )
    asked = [run.questions.get(problem) for problem in problems.names]
    kinds = Codes()
    table = [
        [name, kinds.code(q.kind if q else ""), " ".join((q.question if q else "").split())[:PREVIEW_CHARS]]
        for name, q in zip(problems.names, asked, strict=True)
    ]
    columns = {
        "rows": rows,
        "stages": stages.names,
        "problems": table,
        "kinds": kinds.names,
        "stops": stops.names,
        "functions": list(names),
        "chunk": CHUNK,
    }
    return columns, [[q.question, q.answer] if q else None for q in asked]


def change(rollout: RolloutRow, splits: Mapping[Split, tuple[ByProblem, ByProblem]]) -> int:
    """1 if the trained agent's rollout gained its problem, -1 if it lost it, else 0."""
    trajectory = rollout.trajectory
    for split, (before, after) in splits.items():
        problem = trajectory.problem_id
        if rollout.stage.of_split == split and after.get(problem) is trajectory and problem in before:
            return int(trajectory.correct) - int(before[problem].correct)
    return 0


def first_index(run: RunFiles, problems: Iterable[str], after: ByProblem) -> dict[str, int]:
    """The position in the list of the trained agent's rollout of each problem."""
    wanted = {id(after[problem]): problem for problem in problems}
    return {
        wanted[id(each.trajectory)]: position
        for position, each in enumerate(run.rollouts)
        if id(each.trajectory) in wanted
    }


class Codes:
    """Numbers for texts, in the order of their first use."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        """The number of ``name``, which is new if ``name`` is."""
        if name not in self._codes:
            self._codes[name] = len(self.names)
            self.names.append(name)
        return self._codes[name]


def rollout_detail(rollout: RolloutRow) -> list[Any]:
    """``[answer, reason, seed, function set, turns, tokens of thoughts]``.

    A turn is ``[text, executions, other observations, thought]``, and an execution ``[name, arguments as JSON or the
    code, ok, result]``."""
    trajectory = rollout.trajectory
    turns = [
        [
            step.message.content,
            [[each.name, given(each), each.ok, each.result] for each in step.executed],
            [] if step.executed else [each.content for each in step.observations],
            step.message.thought,
        ]
        for step in trajectory.steps
    ]
    thoughts = trajectory.usage.thought_tokens
    return [trajectory.answer, trajectory.grade.reason, trajectory.seed, trajectory.functions, turns, thoughts]


def given(executed: ToolRun) -> str:
    """The arguments of a call as JSON text (a model may write numbers that JSON does not have), or a block's code."""
    if executed.name == "python":
        return str(executed.arguments.get("code", ""))
    return json.dumps(executed.arguments, ensure_ascii=False)


def chunked(entries: Iterable[Any]) -> list[list[Any]]:
    """``entries`` in lists of CHUNK; the last may be shorter."""
    listed = list(entries)
    return [listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK)]
