"""Algorithm 2 of the paper, agent training: propose, roll out, keep or roll back, stop early.

Two sets are compared only on the same problems with the same seed. The state is a single value, and a step is a
function of the state, the problems and the seed, so a training that was killed continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from agentopt_local.acceptance import is_smaller, judge
from agentopt_local.concurrency import together
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.rollout import Rollouts
from agentopt_local.run.rows import StepRow
from agentopt_local.seeds import derive
from agentopt_local.stage import Stage
from agentopt_local.steps import (
    Tried,
    after_step,
    batch_of,
    batches,
    best_first,
    distinct,
    parts,
    solved_step,
    step_row,
)
from agentopt_local.train_state import Decision, FailedUpdate, StopCause, TrainerConfig, TrainState
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import Update


class Proposer(Protocol):
    """What the trainer needs from an optimizer."""

    async def propose(
        self,
        functions: FunctionSet,
        rollouts: Sequence[Evidence],
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> Update:
        """An update of ``functions``."""
        ...


class TrainingLog(Protocol):
    """Where a training is recorded: in a RunDir, or nowhere."""

    def proposals(self) -> dict[tuple[int, int], Update]:
        """The updates recorded so far, by step and candidate."""
        ...

    def keep_proposal(self, step: int, candidate: int, update: Update) -> None:
        """Record an update that ``step`` tries; candidates are numbered from 0."""
        ...

    def keep_step(self, row: StepRow) -> None:
        """Record a finished step."""
        ...

    def keep_functions(self, step: int, functions: FunctionSet) -> None:
        """Record the functions after an accepted step."""
        ...

    def keep_state(self, state: TrainState) -> None:
        """Record the state, replacing the previous one."""
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
        on_step: Callable[[StepRow], None] | None = None,
    ) -> None:
        """``on_step`` is called with the row of every finished step."""
        self.optimizer = optimizer
        self.rollouts = rollouts
        self.record = record
        self.config = config
        self.seed = seed
        self.on_step = on_step or (lambda row: None)

    async def fit(self, problems: Sequence[Problem], state: TrainState) -> TrainState:
        """Train from ``state`` until a stop condition holds; the result has the best accepted ``functions``."""
        known = self.record.proposals()
        while (cause := self._stop_cause(state)) is None:
            started = time.monotonic()
            batch = batch_of(problems, self.config.batch_size, self.seed, state.step)
            before = await self._roll_out(state, state.functions, batch, "before")
            if all(each.correct for each in before):
                if state.solved + 1 >= batches(problems, self.config.batch_size):
                    cause = "solved"
                    break
                state = self._keep(*solved_step(state, before, time.monotonic() - started))
                continue
            updates = await together(
                self._propose(state, each, known, batch, before) for each in range(self.config.n_candidates)
            )
            tried = await together(
                self._try(state, number, updates[number], batch, before)
                for number in distinct(updates, state.functions)
            )
            ranked = best_first([each for some in tried for each in some])
            state = self._finish(state, ranked, updates, before, time.monotonic() - started)
        state = state.model_copy(update={"stopped": cause})
        self.record.keep_state(state)
        return state

    def _stop_cause(self, state: TrainState) -> StopCause | None:
        # The authors count the baseline as the first epoch, so 10 epochs accept at most 9 updates.
        done = state.accepted + 1 if self.config.count_accepted else state.step
        if done >= self.config.max_epochs:
            return "max_epochs"
        return "early_stop" if state.idle >= self.config.patience else None

    async def _roll_out(
        self, state: TrainState, functions: FunctionSet, batch: Sequence[Problem], part: str
    ) -> Sequence[Trajectory]:
        return await self.rollouts.run(functions, batch, seed=self.seed, stage=Stage(step=state.step + 1, part=part))

    async def _propose(
        self,
        state: TrainState,
        candidate: int,
        known: dict[tuple[int, int], Update],
        batch: Sequence[Problem],
        before: Sequence[Trajectory],
    ) -> Update:
        step = state.step + 1
        if (step, candidate) in known:
            return known[step, candidate]
        evidence = [Evidence(problem=problem, trajectory=each) for problem, each in zip(batch, before, strict=True)]
        self.rollouts.progress(Stage(step=step, part="proposing"), 0, 0)
        seed = derive(self.seed, "update", step, candidate)
        update = await self.optimizer.propose(state.functions, evidence, state.failures, seed=seed)
        self.record.keep_proposal(step, candidate, update)
        return update

    async def _try(
        self,
        state: TrainState,
        number: int,
        update: Update,
        batch: Sequence[Problem],
        before: Sequence[Trajectory],
    ) -> list[Tried]:
        """Roll out candidate ``number`` on the step's problems. With ``try_edits``, first each edit alone, with those
        that it needs, then those that helped together, so that one bad edit does not sink the good ones."""
        if update.functions == state.functions:
            return [self._judged(state, number, update, before, before)]

        async def roll_out(part: Update, name: str) -> Tried:
            after = await self._roll_out(state, part.functions, batch, name)
            return self._judged(state, number, part, before, after)

        alone = parts(update, state.functions) if self.config.try_edits else {}
        if len(alone) < 2:
            return [await roll_out(update, "after")]
        tried = await together(
            roll_out(update.having(state.functions, edits), f"edit {index + 1}") for index, edits in alone.items()
        )
        helped = [edits for edits, each in zip(alone.values(), tried, strict=True) if each.helped]
        joined = frozenset[int]().union(*helped)
        if joined and joined not in alone.values():
            tried.append(await roll_out(update.having(state.functions, joined), "edits together"))
        return tried

    def _judged(
        self,
        state: TrainState,
        number: int,
        update: Update,
        before: Sequence[Trajectory],
        after: Sequence[Trajectory],
    ) -> Tried:
        """An update with its rollouts and what the configured rule says of them."""
        smaller = is_smaller(update.functions, state.functions)
        judgement = judge(
            self.config.acceptance,
            [each.grade.reward for each in before],
            [each.grade.reward for each in after],
            shown={index for index, each in enumerate(before) if each.problem_id in update.seen},
            smaller=smaller,
            alpha=self.config.gate_alpha,
        )
        return Tried(number, update, after, judgement, smaller)

    def _finish(
        self,
        state: TrainState,
        ranked: Sequence[Tried],
        updates: Sequence[Update],
        before: Sequence[Trajectory],
        seconds: float,
    ) -> TrainState:
        """Decide on the best candidate, record the step, and return the state after it."""
        best = ranked[0]
        decision = self._decide(state, best)
        row = step_row(state, decision, ranked, updates=updates, before=before, seconds=seconds)
        return self._keep(after_step(state, decision, best, row), row)

    def _decide(self, state: TrainState, best: Tried) -> Decision:
        if best.update.functions == state.functions:
            return "skipped"
        return "accepted" if best.judgement.accepted or not self.config.roll_back else "rolled_back"

    def _keep(self, state: TrainState, row: StepRow) -> TrainState:
        """Record a finished step and the state after it, and return that."""
        self.record.keep_step(row)
        if row.decision == "accepted":
            self.record.keep_functions(row.step, state.functions)
        self.record.keep_state(state)
        self.on_step(row)
        return state
