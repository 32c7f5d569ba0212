"""The data of one run in a report, as plain JSON: a summary, an index of rollouts, and the rollouts themselves.

The index is small and read at once; turns and questions are in chunks that the browser unpacks when they are viewed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentopt_local.chat import Usage
from agentopt_local.functions import FunctionSet
from agentopt_local.paper_regime import differences
from agentopt_local.problem import Split
from agentopt_local.reasons import by_kind, nothing_learned, step_reasons
from agentopt_local.reporting.history import final_functions, function_rows
from agentopt_local.reporting.rollout_index import chunked, first_index, index, rollout_detail
from agentopt_local.reporting.settings_toml import toml_text
from agentopt_local.run.contribution import Credit
from agentopt_local.run.credits import find_credit
from agentopt_local.run.reader import NOISE_FLOOR, RunFiles, noise_floor_in
from agentopt_local.run.report import Comparison
from agentopt_local.run.rows import MetricRow, Score, StepRow
from agentopt_local.stage import Stage
from agentopt_local.statistics import paired_difference, wilson
from agentopt_local.trajectory import Trajectory

Row = dict[str, Any]
ByProblem = Mapping[str, Trajectory]
PARTS: dict[Split, str] = {"train": "training rollouts", "validation": "validation rollouts"}
METRIC_POINTS = 600
"""Points of the throughput curve."""


@dataclass(frozen=True)
class RunPage:
    """One run, ready to be embedded."""

    summary: Row
    chunks: tuple[list[Any], ...]
    """CHUNK entries each. Rollout ``i`` is entry ``i % CHUNK`` of chunk ``i // CHUNK``. The chunks of questions follow,
    arranged in the same way, in the order of the index's problems."""


def run_page(run: RunFiles, defaults: Mapping[str, Any] | None = None) -> RunPage:
    """Everything that a report shows about ``run``. ``defaults``: the default settings, as nested tables."""
    evaluated: tuple[Split, ...] = ("test", "train")
    splits = {split: sides for split in evaluated if any(sides := both_sides(run, split))}
    functions = function_rows(run, splits)
    notes = list(run.notes)
    credit = find_credit(run.path, notes)
    rollouts, questions = index(run, [row["name"] for row in functions], splits)
    flat, plain = flatten(run.config), flatten(defaults or {})
    summary = {
        "name": run.path.resolve().name,
        "path": str(run.path),
        "model": str(run.meta.get("model") or flat.get("model.name", "")),
        "task": str(flat.get("task.spec", "")),
        "notes": notes,
        "regime": list(differences(run.config)) if run.config.get("preset") == "paper" else [],
        "stopped": run.state.stopped,
        "nothing": None if (nothing := nothing_learned(run.steps, run.state.stopped)) is None else nothing.model_dump(),
        "results": results(run, splits),
        "noise_floor": floor.model_dump(mode="json") if (floor := noise_floor_in(run.meta)) else None,
        "certificates": certificate_rows(run),
        "steps": [step_row(step) for step in run.steps],
        "functions": functions,
        "credit": None if credit is None else credit.model_dump(mode="json"),
        "memorising": memorising(run, credit),
        "offers": {split: each.offers.text for split, each in run.reports.items() if each.offers is not None},
        "only_with_index": {split: first_index(run, after.keys(), after) for split, (_, after) in splits.items()},
        "usage": usage_rows(run),
        "seconds": {
            "steps": round(sum(step.seconds for step in run.steps), 1),
            "work": max((row.seconds for row in run.metrics), default=None),
        },
        "throughput": throughput(run.metrics),
        "settings": flat,
        "changed": sorted(key for key, value in flat.items() if plain.get(key) != value),
        "toml": toml_text(run.config, defaults or {}),
        "meta": flatten({key: value for key, value in run.meta.items() if key not in ("prompts", NOISE_FLOOR)}),
        "rollouts": rollouts,
    }
    return RunPage(
        summary=summary,
        chunks=(*chunked(rollout_detail(each) for each in run.rollouts), *chunked(questions)),
    )


def memorising(run: RunFiles, credit: Credit | None) -> dict[str, str]:
    """Why functions look memorised, by name."""
    signs = [each for report in run.reports.values() for each in report.memorising]
    return {each.name: each.text for each in (*signs, *(credit.memorising if credit else ()))}


def both_sides(run: RunFiles, split: Split) -> tuple[ByProblem, ByProblem]:
    """The rollouts of the untrained and of the trained agent on the problems of ``split``, by problem id."""
    seed = run.config.get("seed", 0)  # others are of votes and of the noise floor
    staged = [each for each in run.rollouts if each.stage.of_split == split and each.trajectory.seed == seed]
    untrained = FunctionSet().fingerprint
    before = {t.problem_id: t for each in staged if (t := each.trajectory).functions == untrained}
    evaluated = [each.trajectory.functions for each in staged if each.stage == Stage(split=split, part="after")]
    trained = evaluated[-1] if evaluated else final_functions(run).fingerprint
    if split == "test" and not evaluated and (trained != untrained or run.state.stopped is None):
        return before, {}  # the evaluation has not begun
    return before, {t.problem_id: t for each in staged if (t := each.trajectory).functions == trained}


def results(run: RunFiles, splits: Mapping[Split, tuple[ByProblem, ByProblem]]) -> list[Row]:
    """Before and after on each split, the held-out one first: from the evaluation, or else from the rollouts so far."""
    found = {split: report.on(split) for split, report in run.reports.items()}
    rows = [result_of_report(split, each) for split, each in found.items() if each is not None and each.n]
    for split, (before, after) in splits.items():
        common = [problem for problem in before if problem in after]
        if common and split not in run.reports:
            rows.append(result_of_rollouts(run, split, [(before[each], after[each]) for each in common]))
    return rows


def certificate_rows(run: RunFiles) -> list[Row]:
    """Each comparison on validation problems that has ended, with its verdict in words; the training's own is first."""
    found = (row.certificate for row in run.certificates if row.certificate is not None)
    return [
        {**each.model_dump(mode="json"), "summary": each.summary(), "basis": each.basis(), "needed": 1 / each.level}
        for each in found
    ]


def result_of_report(split: Split, result: Comparison) -> Row:
    """A split's result from the evaluation."""
    values = result.model_dump(mode="json")
    return {
        "split": split,
        "complete": True,
        "n": result.n,
        **{side: {key: values[side][key] for key in ("accuracy", "ci95")} for side in ("before", "after")},
        "difference": values["difference"],
        "look": result.look,
        "test_set": result.test_set,
        "same_set": result.same_set,
        "arms": values["arms"],
        "kinds": [kind_row(kind, row.n, row.before, row.after) for kind, row in result.kinds.items()],
        "stops": {side: values[side]["stop_reasons"] for side in ("before", "after")},
    }


def result_of_rollouts(run: RunFiles, split: Split, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> Row:
    """A split's result without an evaluation: from the problems that both agents have tried."""
    difference = paired_difference([old.correct for old, _ in pairs], [new.correct for _, new in pairs])
    kinds: dict[str, list[int]] = {}
    for old, new in pairs:
        row = kinds.setdefault(kind_of(run, old.problem_id) or "all", [0, 0, 0])
        row[0] += 1
        row[1] += old.correct
        row[2] += new.correct
    return {
        "split": split,
        "complete": split == "train",
        "n": len(pairs),
        "before": side([old for old, _ in pairs]),
        "after": side([new for _, new in pairs]),
        "difference": difference.model_dump(mode="json"),
        "same_set": all(old is new for old, new in pairs),
        "arms": [],
        "kinds": [kind_row(kind, *row) for kind, row in kinds.items()],
        "stops": {
            name: count(each[index].stop_reason for each in pairs) for index, name in enumerate(("before", "after"))
        },
    }


def side(trajectories: Sequence[Trajectory]) -> Row:
    """Accuracy and its interval."""
    right = sum(each.correct for each in trajectories)
    return {"accuracy": right / max(1, len(trajectories)), "ci95": list(wilson(right, len(trajectories)))}


def kind_row(kind: str, n: int, before: int, after: int) -> Row:
    """One kind of problem with its intervals."""
    return {
        "kind": kind,
        "n": n,
        "before": [before / max(1, n), *wilson(min(before, n), n)],
        "after": [after / max(1, n), *wilson(min(after, n), n)],
    }


def count(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs."""
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items()))


def kind_of(run: RunFiles, problem: str) -> str:
    """The kind of a problem; empty if it is not recorded."""
    question = run.questions.get(problem)
    return question.kind if question else ""


def step_row(step: StepRow) -> Row:
    """One step with intervals, for the learning curve and the table of actions."""

    def measured(part: Score) -> list[float]:
        return [part.accuracy, *wilson(min(part.n, round(part.accuracy * part.n)), part.n), part.n]

    return {
        "step": step.step,
        "decision": step.decision,
        "before": measured(step.before),
        "after": measured(step.after),
        "actions": [{"kind": each.kind, "name": each.name or "", "matches": each.matches} for each in step.actions],
        "candidates": [
            {
                "actions": list(each.actions),
                "accuracy": each.accuracy,
                "judged": each.judgement and each.judgement.model_dump(include={"n", "gained", "lost"}),
            }
            for each in step.candidates
        ],
        "groups": list(by_kind(step.outcomes)) if any(each.group for each in step.outcomes) else [],
        "why": step_reasons(step) if step.decision == "skipped" else [],
        "counts": step.counts.model_dump(),
        "tokens": {
            "optimizer": step.tokens.optimizer.completion_tokens,
            "rollouts": step.tokens.rollouts.completion_tokens,
        },
        "seconds": step.seconds,
    }


def usage_rows(run: RunFiles) -> list[Row]:
    """Tokens by purpose: the optimizer, rollouts of the training, of the noise floor, of validation and of the test."""
    parts: dict[str, Usage] = {"optimizer": run.state.usage}
    counts: dict[str, int] = {}
    for each in run.rollouts:
        name = PARTS.get(each.stage.of_split or "test", "test rollouts")
        name = "credit rollouts" if each.stage.part.startswith("credit") else name
        name = "rollouts of the noise floor" if each.stage.of_floor else name
        parts[name] = parts.get(name, Usage()) + each.trajectory.spent
        counts[name] = counts.get(name, 0) + (not each.trajectory.copied)
    return [{"part": name, "rollouts": counts.get(name), **usage.model_dump()} for name, usage in parts.items()]


def throughput(metrics: Sequence[MetricRow]) -> list[list[Any]]:
    """``[seconds, tokens per second, cached share, stage]`` rows, at most METRIC_POINTS, evenly spaced."""
    rows = [row for row in metrics if row.tokens_per_s is not None]
    every = -(-len(rows) // METRIC_POINTS) or 1
    return [[row.seconds, row.tokens_per_s, row.cached, str(row.stage)] for row in rows[::every]]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Row:
    """Nested tables as dotted keys."""
    flat: Row = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value) if isinstance(value, float) and not math.isfinite(value) else value
    return flat
