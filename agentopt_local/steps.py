"""The pure parts of a training step: its problems, distinct candidates, row, and the state after it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentopt_local.acceptance import Judgement
from agentopt_local.chat import Usage
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.run.rows import ActionRow, CandidateRow, Fingerprints, Score, StepRow, StepTokens
from agentopt_local.seeds import derive
from agentopt_local.train_state import Decision, FailedUpdate, TrainState
from agentopt_local.trajectory import Trajectory, accuracy, mean_reward
from agentopt_local.update import ActionCounts, Update


@dataclass(frozen=True)
class Tried:
    """An update, or a part of one, and its rollouts on the step's problems."""

    candidate: int
    """The number of the candidate that it belongs to."""
    update: Update
    after: Sequence[Trajectory]
    """On all problems of the step; those that it was not tried on are as before."""
    judgement: Judgement
    smaller: bool = False
    """Whether it only takes functions away."""
    whole: bool = True
    """Whether it was tried on all problems of the step."""
    usage: Usage = field(default_factory=Usage)
    """Of the rollouts."""

    @property
    def helped(self) -> bool:
        """Whether it did better where it counts, if by less than the margin; a smaller set need only do as well."""
        return self.judgement.accepted or (self.judgement.gain >= 0 if self.smaller else self.judgement.gain > 0)


def best_first(tried: Sequence[Tried]) -> list[Tried]:
    """Those to be kept before all others, then by their gain on the problems that count, then smaller sets first."""
    return sorted(
        tried,
        key=lambda each: (
            not (each.whole and each.judgement.accepted),
            not each.whole,
            -round(each.judgement.gain, 9),
            len(each.update.functions),
            each.candidate,
        ),
    )


def parts(update: Update, base: FunctionSet) -> dict[int, frozenset[int]]:
    """The parts of an update that are tried first: by the index of an edit, that edit and those that it needs.

    Parts that leave ``base`` as it is, or repeat an earlier one's result, are left out.
    """
    found: dict[int, frozenset[int]] = {}
    known = {base}
    for index in range(len(update.actions)):
        edits = update.needs(index)
        functions = update.having(base, edits).functions
        if functions not in known:
            known.add(functions)
            found[index] = edits
    return found


def step_row(
    state: TrainState,
    decision: Decision,
    ranked: Sequence[Tried],
    *,
    updates: Sequence[Update],
    before: Sequence[Trajectory],
    seconds: float,
) -> StepRow:
    """The row of the step after ``state``; ``updates``: all of its candidates, rolled out or not."""
    best = ranked[0]
    return StepRow(
        step=state.step + 1,
        decision=decision,
        actions=tuple(
            ActionRow(kind=each.kind, name=getattr(each, "name", None), matches=matches)
            for each, matches in zip(best.update.actions, best.update.matches, strict=True)
        ),
        before=score(before),
        after=score(best.after),
        candidates=tuple(
            CandidateRow(
                actions=each.update.summaries(),
                accuracy=round(accuracy(each.after), 6),
                reward=round(mean_reward(each.after), 6),
                judgement=each.judgement,
            )
            for each in ranked
        ),
        candidate=best.candidate,
        functions=(best.update.functions if decision == "accepted" else state.functions).names,
        fingerprint=Fingerprints(before=state.functions.fingerprint, after=best.update.functions.fingerprint),
        counts=sum((each.counts for each in updates), ActionCounts()),
        outcomes=tuple(outcome for each in updates for outcome in each.outcomes),
        source_tokens=max((each.source_tokens for each in updates if each.source_tokens), default=None),
        tokens=StepTokens(
            optimizer=sum((each.usage for each in updates), Usage()),
            rollouts=sum((each.usage for each in ranked), Usage()),
        ),
        seconds=round(seconds, 2),
    )


def after_step(state: TrainState, decision: Decision, best: Tried, row: StepRow) -> TrainState:
    """The state after a step that decided on ``best``."""
    update = best.update
    common = {
        "step": row.step,
        "counts": state.counts + row.counts,
        "usage": state.usage + row.tokens.optimizer,
        "solved": 0,
    }
    if decision == "accepted":
        accepted = {"functions": update.functions, "accepted": state.accepted + 1, "idle": 0, "failures": ()}
        return state.model_copy(update={**common, **accepted})
    failures = state.failures
    if decision == "rolled_back":
        solved = {each.problem_id for each in best.after if each.correct}
        failed = FailedUpdate(
            step=row.step,
            actions=update.summaries(),
            functions=update.functions,
            accuracy=best.judgement.after,
            accuracy_before=best.judgement.before,
            fixed=tuple(sorted(solved - set(row.before.solved))),
            broke=tuple(each for each in row.before.solved if each not in solved),
            shown=tuple(sorted(update.seen)),
        )
        failures = (*failures, failed)
    return state.model_copy(update={**common, "idle": state.idle + 1, "failures": failures})


def solved_step(state: TrainState, before: Sequence[Trajectory], seconds: float) -> tuple[TrainState, StepRow]:
    """The state after a step whose problems are all solved, and its row. Such a step does not count as idle."""
    now = score(before)
    row = StepRow(
        step=state.step + 1,
        decision="skipped",
        before=now,
        after=now,
        functions=state.functions.names,
        fingerprint=Fingerprints(before=state.functions.fingerprint, after=state.functions.fingerprint),
        seconds=round(seconds, 2),
    )
    return state.model_copy(update={"step": row.step, "solved": state.solved + 1}), row


def distinct(updates: Sequence[Update], functions: FunctionSet) -> list[int]:
    """Numbers of the candidates whose code or docstrings differ from those of earlier ones and of ``functions``; [0] if
    none do. A docstring decides when an agent calls a function."""
    known = {code(functions)}
    found = []
    for number, each in enumerate(updates):
        if (key := code(each.functions)) not in known:
            known.add(key)
            found.append(number)
    return found or [0]


def code(functions: FunctionSet) -> frozenset[tuple[str, str]]:
    """A set's code and docstrings, regardless of comments, formatting and order."""
    return frozenset((function.normalized(), function.description) for function in functions.each())


def batch_of(problems: Sequence[Problem], size: int | None, seed: int, step: int) -> tuple[Problem, ...]:
    """The problems of one step, determined by the seed and the step. The batches of an epoch cover all problems."""
    if size is None or size >= len(problems):
        return tuple(problems)
    epoch, index = divmod(step, batches(problems, size))
    order = random.Random(derive(seed, "batch", epoch)).sample(list(problems), len(problems))
    return tuple(order[index * size : (index + 1) * size])


def batches(problems: Sequence[Problem], size: int | None) -> int:
    """The steps of an epoch."""
    return 1 if size is None or size >= len(problems) else -(-len(problems) // size)


def score(trajectories: Sequence[Trajectory]) -> Score:
    """How a set did on a step's problems."""
    return Score(
        accuracy=round(accuracy(trajectories), 6),
        reward=round(mean_reward(trajectories), 6),
        n=len(trajectories),
        solved=tuple(each.problem_id for each in trajectories if each.correct),
    )
