"""Rollouts: graded attempts at many problems at once, each remembered as soon as it ends.

Two kinds of failure are kept apart. What the model, its code or its prompt does wrong is data: a Trajectory with a
stop reason and a grade. What the machine does wrong (a dead engine, a wrong key, a broken sandbox) is an exception
that ends the run, so nothing is graded 0 for an infrastructure fault. The line between them is drawn by two types:
``Execution(ok=False)`` against SandboxError for code, and PromptError against every other ModelError for prompts.
The agent's loop (``agents/loop.py``) is the one place that catches a PromptError; nothing is caught here.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from agentopt_local.admission import Admission
from agentopt_local.agents.base import Agent
from agentopt_local.concurrency import task_group
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.retrieval import Retrieval, View
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.stage import Stage
from agentopt_local.tasks.base import Task
from agentopt_local.trajectory import Trajectory

log = logging.getLogger(__name__)
Progress = Callable[[Stage, int, int], None]
"""Called as ``progress(stage, done, total)``."""
Observe = Callable[[Stage, Trajectory], None]
"""Called as ``observe(stage, trajectory)``, for remembered rollouts too."""


class Solver(Protocol):
    """Makes rollouts, in this process or on another machine."""

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Trajectory:
        """One graded attempt. Raises ModelError, SandboxError, BudgetError or ConfigError (a user's grader)."""
        ...


class GradedAgent:
    """The Solver of this process: an agent whose attempts are graded as they end."""

    def __init__(self, agent: Agent, task: Task, sandbox: Sandbox) -> None:
        """``task`` grades, running what it must in ``sandbox``."""
        self.agent = agent
        self.task = task
        self.sandbox = sandbox

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Trajectory:
        """One graded attempt. Raises ModelError, SandboxError or ConfigError (a user's grader)."""
        attempt = await self.agent.solve(problem, functions, seed=seed)
        grade = await self.task.grade(problem, attempt.answer, self.sandbox)
        if attempt.error:
            grade = grade.model_copy(update={"reason": f"{grade.reason}: {attempt.error}"})
        return attempt.graded(grade)


class RolloutStore(Protocol):
    """Remembers finished rollouts by problem, seed and function set, or what the problem sees of it."""

    def find(self, functions: str, problem_id: str, seed: int) -> Trajectory | None:
        """The remembered rollout with the set of this fingerprint, if there is one."""
        ...

    def seen(self, view: str, problem_id: str, seed: int) -> Trajectory | None:
        """A remembered rollout with this view (:attr:`Attempt.view`) of any set, if there is one."""
        ...

    def keep(self, trajectory: Trajectory, stage: Stage) -> None:
        """Remember a rollout, durably where the store is a file."""
        ...


class MemoryStore:
    """A RolloutStore that forgets with the process."""

    def __init__(self) -> None:
        self.trajectories: dict[tuple[str, str, int], Trajectory] = {}
        self._seen: dict[tuple[str, str, int], Trajectory] = {}

    def find(self, functions: str, problem_id: str, seed: int) -> Trajectory | None:
        """The remembered rollout with the set of this fingerprint, if there is one."""
        return self.trajectories.get((functions, problem_id, seed))

    def seen(self, view: str, problem_id: str, seed: int) -> Trajectory | None:
        """A remembered rollout with this view of any set, if there is one."""
        return self._seen.get((view, problem_id, seed))

    def keep(self, trajectory: Trajectory, stage: Stage) -> None:
        """Remember a rollout."""
        self.trajectories[trajectory.functions, trajectory.problem_id, trajectory.seed] = trajectory
        if trajectory.view:
            self._seen[trajectory.view, trajectory.problem_id, trajectory.seed] = trajectory


class Rollouts:
    """Runs a solver on many problems."""

    def __init__(
        self,
        solver: Solver,
        store: RolloutStore,
        *,
        admission: Admission | None = None,
        retrieval: Retrieval | None = None,
        progress: Progress | None = None,
        observe: Observe | None = None,
    ) -> None:
        """``admission``: decides which rollouts may be under way, over all calls of :meth:`run`; None: 64 at once.

        ``retrieval``: the solver's; a problem that sees the same of two sets is then tried with one of them alone.
        ``observe`` is called with every rollout before ``progress`` counts it.
        """
        self.solver = solver
        self.store = store
        self.progress = progress or (lambda stage, done, total: None)
        self.observe = observe or (lambda stage, trajectory: None)
        self.admission = Admission(64) if admission is None else admission
        self.retrieval = retrieval
        self.under_way: Counter[Stage] = Counter()
        """Attempts that have begun and not ended, by stage."""
        self._lengths: dict[str, int] = {}
        """Generated tokens of the latest rollout by problem id."""
        self._being_made: defaultdict[tuple[str, str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        """By view, problem and seed."""

    async def run(
        self, functions: FunctionSet, problems: Sequence[Problem], *, seed: int, stage: Stage
    ) -> tuple[Trajectory, ...]:
        """One graded trajectory per problem, in order. Rollouts that the store remembers are not run again, also those
        with another set of which the problem sees the same: they are copied.

        Raises what the solver raises, after cancelling the other rollouts. Those that had ended are kept.
        """
        async with self.running(functions, problems, seed=seed, stage=stage) as rollouts:
            pass
        return tuple(each.result() for each in rollouts)

    @asynccontextmanager
    async def running(
        self, functions: FunctionSet, problems: Sequence[Problem], *, seed: int, stage: Stage
    ) -> AsyncIterator[list[asyncio.Task[Trajectory]]]:
        """The rollouts of :meth:`run` while they are under way, one task for each problem, in order; all have ended at
        the end of the block.

        Where not all fit at once, problems whose last rollout was longest start first: a long one that starts last
        would end alone. Problems that were never tried start before all others, because they may be long.
        """
        done = 0

        async def one(problem: Problem) -> Trajectory:
            nonlocal done
            trajectory = self.store.find(functions.fingerprint, problem.id, seed)
            if trajectory is None:
                trajectory = await self._made(functions, problem, seed, stage)
            self._lengths[problem.id] = trajectory.usage.completion_tokens
            done += 1
            self.observe(stage, trajectory)
            self.progress(stage, done, len(problems))
            return trajectory

        self.progress(stage, 0, len(problems))
        lengths = [self._lengths.get(problem.id, sys.maxsize) for problem in problems]
        order = sorted(range(len(problems)), key=lambda index: -lengths[index])
        async with task_group() as group:
            started = {index: group.create_task(one(problems[index])) for index in order}
            yield [started[index] for index in range(len(problems))]

    async def _made(self, functions: FunctionSet, problem: Problem, seed: int, stage: Stage) -> Trajectory:
        """A new rollout, or a copy of one that is the same. The store remembers it."""
        view = View(functions, functions)
        if self.retrieval is not None:
            view = self.retrieval.view(functions, problem.question)
        async with self._being_made[view.key, problem.id, seed]:
            same = self.store.seen(view.key, problem.id, seed)
            if same is None:
                trajectory = await self._solved(functions, problem, seed, stage)
            else:
                trajectory = same.with_set(functions, view.left_of(functions))
            self.store.keep(trajectory, stage)
        return trajectory

    async def _solved(self, functions: FunctionSet, problem: Problem, seed: int, stage: Stage) -> Trajectory:
        async with self.admission:
            self.under_way[stage] += 1
            try:
                trajectory = await self.solver.solve(problem, functions, seed=seed)
            finally:
                self.under_way[stage] -= 1
            used = trajectory.usage
            self.admission.learn(trajectory.context_tokens, used.evicted_tokens / max(used.prompt_tokens, 1))
        if trajectory.error:
            log.warning("%s, problem %s: the prompt was refused: %s", stage, problem.id, trajectory.error)
        return trajectory
