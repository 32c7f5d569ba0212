"""A run's rows as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from agentopt_local.run.rows import ProblemRow, RolloutRow, StepRow

if TYPE_CHECKING:
    import pandas as pd


def curve(rows: Iterable[StepRow]) -> pd.DataFrame:
    """``step``, ``before``, ``after`` (accuracy, 0 to 1) and ``decision``."""
    records = [(row.step, row.before.accuracy, row.after.accuracy, row.decision) for row in rows]
    return frame(records, ("step", "before", "after", "decision"))


def steps(rows: Iterable[StepRow]) -> pd.DataFrame:
    """One row per step."""
    records = [
        (
            row.step,
            row.decision,
            ", ".join(f"{each.kind} {each.name or ''}".strip() for each in row.actions),
            row.before.n,
            row.before.accuracy,
            row.after.accuracy,
            row.before.reward,
            row.after.reward,
            list(row.functions),
            len(row.candidates),
            row.tokens.optimizer.prompt_tokens,
            row.tokens.optimizer.completion_tokens,
            row.tokens.rollouts.prompt_tokens,
            row.tokens.rollouts.completion_tokens,
            row.seconds,
        )
        for row in rows
    ]
    return frame(records, STEP_COLUMNS)


STEP_COLUMNS = (
    "step", "decision", "actions", "n", "accuracy_before", "accuracy_after", "reward_before", "reward_after",
    "functions", "tried", "optimizer_prompt_tokens", "optimizer_completion_tokens", "rollout_prompt_tokens",
    "rollout_completion_tokens", "seconds",
)  # fmt: skip


def rollouts(rows: Iterable[RolloutRow], problems: Mapping[str, ProblemRow]) -> pd.DataFrame:
    """One row per rollout."""
    unknown = ProblemRow(id="")
    records = []
    for row in rows:
        each, problem = row.trajectory, problems.get(row.trajectory.problem_id, unknown)
        records.append(
            (
                str(row.stage),
                row.stage.step,
                row.stage.of_split,
                each.problem_id,
                problem.kind,
                problem.question,
                problem.answer,
                each.answer,
                each.grade.reward,
                each.correct,
                each.grade.reason,
                each.stop_reason,
                len(each.steps),
                len(each.calls),
                each.functions,
                each.seed,
                each.usage.prompt_tokens,
                each.usage.completion_tokens,
                each.wall_s,
            )
        )
    table = frame(records, ROLLOUT_COLUMNS)
    return table.astype({"step": "Int64"})  # whole numbers, also beside rollouts that belong to no step


ROLLOUT_COLUMNS = (
    "stage", "step", "split", "problem_id", "kind", "question", "expected", "answer", "reward", "correct", "reason",
    "stop_reason", "turns", "calls", "functions", "seed", "prompt_tokens", "completion_tokens", "seconds",
)  # fmt: skip


def problems(rows: Iterable[ProblemRow]) -> pd.DataFrame:
    """One row per problem."""
    records = [(row.id, row.split, row.kind, row.question, row.answer) for row in rows]
    return frame(records, ("id", "split", "kind", "question", "answer"))


def frame(records: list[tuple[Any, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A DataFrame with these columns, also if it has no row."""
    import pandas as pd  # takes half a second, which a program that looks at no table need not wait

    return pd.DataFrame.from_records(records, columns=list(columns))
