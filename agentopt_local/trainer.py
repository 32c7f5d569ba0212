"""Algorithm 2 of the paper, agent training: propose, roll out, keep or roll back, stop early.

Two sets are compared only on the same problems with the same seed. The state is a single value, and a step is a
function of the state, the problems and the seed, so a training that was killed continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from agentopt_local.concurrency import together
from agentopt_local.evidence import Evidence
from agentopt_local.exploring import further_successes
from agentopt_local.functions import FunctionSet
from agentopt_local.incoming import Incoming, UnderWay
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
    solved_step,
    step_row,
)
from agentopt_local.train_state import Decision, FailedUpdate, StopCause, TrainerConfig, TrainState
from agentopt_local.trajectory import Trajectory
from agentopt_local.trying import Trying
from agentopt_local.update import Update


class Proposer(Protocol):
    """What the trainer needs from an optimizer."""

    async def propose(
        self,
        functions: FunctionSet,
        rollouts: Incoming,
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> Update:
        """An update of ``functions``, from rollouts with them on the problems of the step."""
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
        explore: Rollouts | None = None,
        overlap: bool = True,
        merge: Callable[[FunctionSet, Sequence[Trajectory]], Awaitable[Update]] | None = None,
    ) -> None:
        """``on_step`` is called with the row of every finished step. ``explore`` makes further attempts at failed
        problems, which must not all be the same. ``overlap``: draft while rollouts are under way. ``merge``: an update
        that removes what is in a set twice, from rollouts with it; it is tried like any other.
        """
        self.optimizer = optimizer
        self.rollouts = rollouts
        self.record = record
        self.config = config
        self.seed = seed
        self.on_step = on_step or (lambda row: None)
        self.explore = explore
        self.overlap = overlap
        self.merge = merge

    async def fit(self, problems: Sequence[Problem], state: TrainState) -> TrainState:
        """Train from ``state`` until a stop condition holds; the result has the best accepted ``functions``."""
        known = self.record.proposals()
        while (cause := self._stop_cause(state)) is None:
            started = time.monotonic()
            batch = batch_of(problems, self.config.batch_size, self.seed, state.step)
            before, updates = await self._proposed(state, batch, known)
            if all(each.correct for each in before):
                if state.solved + 1 >= batches(problems, self.config.batch_size):
                    cause = "solved"
                    break
                state = self._keep(*solved_step(state, before, time.monotonic() - started))
                continue
            trying = Trying(self.config, state.functions, batch, before, partial(self._roll_out, state))
            tried = await together(
                trying.tried(number, updates[number]) for number in distinct(updates, state.functions)
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

    async def _proposed(
        self, state: TrainState, batch: Sequence[Problem], known: Mapping[tuple[int, int], Update]
    ) -> tuple[list[Trajectory], list[Update]]:
        """The rollouts of the present set and the step's candidates, which are drafted as soon as possible."""
        stage = Stage(step=state.step + 1, part="before")
        async with self.rollouts.running(state.functions, batch, seed=self.seed, stage=stage) as rollouts:
            incoming = UnderWay(batch, rollouts, partial(self._attempts, state))
            if not self.overlap:
                await incoming.all()
            updates = await together(
                self._propose(state, each, known, incoming) for each in range(self.config.n_candidates)
            )
        before = [each.result() for each in rollouts]
        if self.merge is not None and len(state.functions) > 1:
            merged = known.get((state.step + 1, self.config.n_candidates)) or await self.merge(state.functions, before)
            if merged.functions != state.functions:  # one more candidate
                self.record.keep_proposal(state.step + 1, self.config.n_candidates, merged)
                updates.append(merged)
        return before, updates

    async def _attempts(self, state: TrainState, evidence: Sequence[Evidence]) -> list[Evidence]:
        """Right ones of further attempts at problems that failed."""
        if self.explore is None:
            return []
        stage, times = Stage(step=state.step + 1, part="attempts"), self.config.attempts - 1
        return await further_successes(self.explore, state.functions, evidence, times, seed=self.seed, stage=stage)

    async def _propose(
        self, state: TrainState, candidate: int, known: Mapping[tuple[int, int], Update], incoming: UnderWay
    ) -> Update:
        step = state.step + 1
        if (step, candidate) in known:
            return known[step, candidate]
        if not await incoming.any_failed():  # there is nothing to improve
            return Update(functions=state.functions)
        self.rollouts.progress(Stage(step=step, part="proposing"), 0, 0)
        seed = derive(self.seed, "update", step, candidate)
        update = await self.optimizer.propose(state.functions, incoming, state.failures, seed=seed)
        self.record.keep_proposal(step, candidate, update)
        return update

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
