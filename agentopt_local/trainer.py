"""Algorithm 2 of the paper, agent training: propose, roll out, keep or roll back, stop early.

Two sets are compared only on the same problems with the same seed. The state is one value; what a step does is a
function of the state, the problems and the seed, so a training continues after a kill where it was.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import Field

from agentopt_local.chat import Usage
from agentopt_local.concurrency import together
from agentopt_local.evidence import Attempted, FailedUpdate
from agentopt_local.functions import FunctionSet
from agentopt_local.optimizer import ActionCounts, Proposal
from agentopt_local.record import Record
from agentopt_local.rollout import Rollouts, accuracy
from agentopt_local.task import Problem
from agentopt_local.trajectory import Trajectory

log = logging.getLogger(__name__)
CANDIDATE_SEEDS = 10**9
"""Between the seeds of two candidates of one step."""
Decision = Literal["accepted", "rolled_back", "skipped"]
StopCause = Literal["max_epochs", "early_stop", "solved"]


class TrainerConfig(Record):
    """When an update is kept and when training ends."""

    max_epochs: int = Field(default=5, ge=1)
    """Updates to try; with ``count_accepted`` updates to accept, the baseline being the first."""
    count_accepted: bool = False
    """Count accepted updates only, as the authors' code does; rejected ones are free."""
    patience: int = Field(default=3, ge=1)
    """Stop after this many consecutive updates that did not help."""
    roll_back: bool = True
    """Undo an update that did not help; False: keep every update, and end with the last one (the paper's ablation)."""
    accept_ties: bool = False
    """Keep an update that changes nothing in accuracy, as the authors' code does."""
    try_edits: bool = True
    """Roll out each edit of an update alone, and those that helped together, and keep the best; False: the whole
    update or nothing, as in the paper."""
    n_candidates: int = Field(default=1, ge=1, le=64)
    """Updates drawn at once, from different seeds and so from different failed problems; all that differ are rolled
    out on the same problems and the best is kept. 1 as in the paper; a local engine's idle slots make more cheap."""
    batch_size: int | None = Field(default=None, ge=1)
    """Problems of one step, drawn by seed; None: all training problems, as in the paper."""
    keep_only_used: bool = False
    """At test time give the agent only functions that were called successfully in training, as the authors do."""


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "paper": {
        "trainer": {
            "max_epochs": 10,
            "count_accepted": True,
            "patience": 10,
            "accept_ties": True,
            "try_edits": False,
            "keep_only_used": True,
            "n_candidates": 1,
        },
        "optimizer": {"max_actions": 3, "concurrent": False, "n_samples": 1, "max_retries": 9, "min_matches": 0},
    },
}
"""Settings that a run's ``preset`` stands for; what the user sets wins. ``paper``: PAPER regime, released code."""


class TrainState(Record):
    """The whole checkpoint."""

    functions: FunctionSet = FunctionSet()
    """The best accepted set."""
    step: int = 0
    """Steps finished."""
    accepted: int = 0
    idle: int = 0
    """Consecutive steps without improvement."""
    failures: tuple[FailedUpdate, ...] = ()
    """Updates rolled back since the last accepted one."""
    counts: ActionCounts = ActionCounts()
    usage: Usage = Usage()
    """Of the optimizer, over all steps."""
    stopped: StopCause | None = None


@dataclass(frozen=True)
class Candidate:
    """An update, or a part of one, and its rollouts on the step's problems."""

    proposal: Proposal
    after: Sequence[Trajectory]


class Proposer(Protocol):
    """What the trainer needs of an optimizer."""

    async def propose(
        self,
        functions: FunctionSet,
        attempts: Sequence[Attempted],
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> Proposal:
        """An edited set."""
        ...


class TrainingLog(Protocol):
    """Where a training is written down; a RunDir, or nothing."""

    def proposals(self) -> dict[tuple[int, int], Proposal]:
        """Updates written down so far, by step and candidate."""
        ...

    def keep_proposal(self, step: int, candidate: int, proposal: Proposal) -> None:
        """Write down an update that ``step`` tries; its candidates count from 0."""
        ...

    def keep_step(self, row: dict[str, Any]) -> None:
        """Write down a finished step."""
        ...

    def write_functions(self, step: int, functions: FunctionSet) -> None:
        """Write down the functions after an accepted step."""
        ...

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file."""
        ...


class Trainer:
    """Trains a function set on problems."""

    def __init__(
        self,
        optimizer: Proposer,
        rollouts: Rollouts,
        record: TrainingLog,
        config: TrainerConfig,
        *,
        seed: int = 0,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """``on_step`` is told every finished step's row."""
        self.optimizer = optimizer
        self.rollouts = rollouts
        self.record = record
        self.config = config
        self.seed = seed
        self.on_step = on_step or (lambda row: None)

    async def fit(self, problems: Sequence[Problem], state: TrainState) -> TrainState:
        """Train from ``state`` until a stop; the result's ``functions`` are the best accepted ones."""
        known = self.record.proposals()
        while (cause := self._stop_cause(state)) is None:
            started = time.monotonic()
            batch = batch_of(problems, self.config.batch_size, self.seed, state.step)
            number = state.step + 1
            before = await self.rollouts.run(state.functions, batch, seed=self.seed, stage=f"step {number} before")
            if all(each.correct for each in before) and self.config.batch_size is None:
                cause = "solved"
                break
            candidates = range(self.config.n_candidates)
            proposals = await together(self._propose(state, each, known, batch, before) for each in candidates)
            tried = await together(
                self._try(number, state.functions, each, batch, before) for each in distinct(proposals, state.functions)
            )
            best_first = sorted((each for some in tried for each in some), key=lambda each: -accuracy(each.after))
            spent = Proposal(functions=state.functions)
            for each in proposals:
                spent = spent.plus(each.counts, each.usage)
            state = self._finish(state, best_first, spent, before, time.monotonic() - started)
        state = state.model_copy(update={"stopped": cause})
        self._write_state(state)
        return state

    def _stop_cause(self, state: TrainState) -> StopCause | None:
        # The baseline is the first of the authors' epochs, so 10 epochs accept at most 9 updates.
        done = state.accepted + 1 if self.config.count_accepted else state.step
        if done >= self.config.max_epochs:
            return "max_epochs"
        return "early_stop" if state.idle >= self.config.patience else None

    async def _propose(
        self,
        state: TrainState,
        candidate: int,
        known: dict[tuple[int, int], Proposal],
        batch: Sequence[Problem],
        before: Sequence[Trajectory],
    ) -> Proposal:
        number = state.step + 1
        if (number, candidate) in known:
            return known[number, candidate]
        attempts = [Attempted(problem=problem, trajectory=each) for problem, each in zip(batch, before, strict=True)]
        self.rollouts.progress(f"step {number} proposing", 0, 0)
        proposal = await self.optimizer.propose(
            state.functions, attempts, state.failures, seed=self.seed * 10_000 + number + candidate * CANDIDATE_SEEDS
        )
        self.record.keep_proposal(number, candidate, proposal)
        return proposal

    async def _try(
        self,
        number: int,
        functions: FunctionSet,
        proposal: Proposal,
        batch: Sequence[Problem],
        before: Sequence[Trajectory],
    ) -> list[Candidate]:
        """Roll the update out on the step's problems; with ``try_edits`` each edit alone, then those that helped
        together, so that one bad edit does not take the good ones down with it."""
        if proposal.functions == functions:
            return [Candidate(proposal, before)]

        async def roll_out(candidate: Proposal, name: str) -> Candidate:
            stage = f"step {number} {name}"
            return Candidate(
                candidate, await self.rollouts.run(candidate.functions, batch, seed=self.seed, stage=stage)
            )

        if not self.config.try_edits or len(proposal.actions) < 2:
            return [await roll_out(proposal, "after")]
        alone = [(index, proposal.only(functions, [index])) for index in range(len(proposal.actions))]
        single = {index: each for index, each in alone if each is not None and each.functions != functions}
        tried = await together(roll_out(each, f"edit {index + 1}") for index, each in single.items())
        helped = [index for index, each in zip(single, tried, strict=True) if accuracy(each.after) > accuracy(before)]
        whole = proposal.only(functions, helped) if len(helped) > 1 else None
        if not tried:  # the edits build on one another
            whole = proposal
        if whole is not None:
            tried.append(await roll_out(whole, "edits together"))
        return tried

    def _finish(
        self, state: TrainState, tried: list[Candidate], spent: Proposal, before: Sequence[Trajectory], seconds: float
    ) -> TrainState:
        """Decide on the first candidate, write the step down, and return the state after it.

        ``spent`` has the counts and tokens of all proposals.
        """
        number = state.step + 1
        proposal, after = tried[0].proposal, tried[0].after
        old, new = accuracy(before), accuracy(after)
        decision = self._decide(proposal.functions == state.functions, old, new)
        common = {
            "step": number,
            "counts": state.counts + spent.counts,
            "usage": state.usage + spent.usage,
        }
        if decision == "accepted":
            changes = {"functions": proposal.functions, "accepted": state.accepted + 1, "idle": 0, "failures": ()}
        else:
            changes = {"idle": state.idle + 1}
        if decision == "rolled_back":
            failed = FailedUpdate(
                step=number,
                actions=proposal.summaries(),
                functions=proposal.functions,
                accuracy=new,
                accuracy_before=old,
            )
            changes["failures"] = (*state.failures, failed)
        row = {
            "step": number,
            "decision": decision,
            "actions": [
                {"kind": each.kind, "name": getattr(each, "name", None), "matches": matches}
                for each, matches in zip(proposal.actions, proposal.matches, strict=True)
            ],
            "before": score(before),
            "after": score(after),
            "candidates": [
                {"actions": list(each.proposal.summaries()), "accuracy": round(accuracy(each.after), 6)}
                for each in tried
            ],
            "functions": list((proposal.functions if decision == "accepted" else state.functions).names),
            "fingerprint": {"before": state.functions.fingerprint, "after": proposal.functions.fingerprint},
            "counts": spent.counts.model_dump(),
            "tokens": {
                "optimizer": spent.usage.model_dump(),
                "rollouts": sum((sum_usage(each.after) for each in tried), Usage()).model_dump(),
            },
            "seconds": round(seconds, 2),
        }
        state = state.model_copy(update={**common, **changes})
        self.record.keep_step(row)
        if decision == "accepted":
            self.record.write_functions(number, state.functions)
        self._write_state(state)
        self.on_step(row)
        return state

    def _decide(self, unchanged: bool, old: float, new: float) -> Decision:
        if unchanged:
            return "skipped"
        if not self.config.roll_back:
            return "accepted"
        return "accepted" if new > old or (self.config.accept_ties and new == old) else "rolled_back"

    def _write_state(self, state: TrainState) -> None:
        self.record.write_json("state.json", state.model_dump(mode="json"))


def distinct(proposals: Sequence[Proposal], functions: FunctionSet) -> list[Proposal]:
    """Proposals whose code differs from each other's and from the present one's; the first one if none does."""
    known = {code(functions)}
    found = []
    for each in proposals:
        if (key := code(each.functions)) not in known:
            known.add(key)
            found.append(each)
    return found or list(proposals[:1])


def code(functions: FunctionSet) -> frozenset[str]:
    """What a set does, whatever its comments, docstrings, formatting and order."""
    return frozenset(function.normalized() for function in functions.each())


def batch_of(problems: Sequence[Problem], size: int | None, seed: int, step: int) -> tuple[Problem, ...]:
    """The problems of one step: a pure function of the seed and the step. Each epoch's batches cover all problems."""
    if size is None or size >= len(problems):
        return tuple(problems)
    per_epoch = -(-len(problems) // size)
    epoch, index = divmod(step, per_epoch)
    order = random.Random(f"{seed}/{epoch}").sample(list(problems), len(problems))
    return tuple(order[index * size : (index + 1) * size])


def score(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Accuracy, and which problems were solved, for a step's row."""
    return {
        "accuracy": round(accuracy(trajectories), 6),
        "n": len(trajectories),
        "solved": [each.problem_id for each in trajectories if each.correct],
    }


def sum_usage(trajectories: Sequence[Trajectory]) -> Usage:
    """Tokens of all trajectories."""
    return sum((each.usage for each in trajectories), Usage())


def used_functions(functions: FunctionSet, trajectories: Sequence[Trajectory]) -> FunctionSet:
    """Only the functions that were called without error at least once in ``trajectories``, by code too."""
    names = (name for name in functions.names if any(each.used(name, without_error=True) for each in trajectories))
    return functions.keeping(frozenset(names))
