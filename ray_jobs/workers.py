"""Rollouts on other nodes: an actor there has the agent's loop, a sandbox and the task's grader.

One Ray call carries a whole attempt, so the cost of its turns, including the code they run, is paid on the worker's
node, next to the engines. The driver admits attempts and gives each to the worker with the fewest; none queue at a
worker, so there is nothing to steal. An attempt is a pure value, like a completion, so what a dying worker held is
repeated on another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatModel, Usage
from agentopt_local.errors import ConfigError, EngineDeadError, outcome
from agentopt_local.functions import FunctionSet
from agentopt_local.models.metered import Ledger, Prices
from agentopt_local.problem import Problem
from agentopt_local.rollout import GradedAgent, Solver
from agentopt_local.sandbox.repeating import RepeatingSandbox
from agentopt_local.tasks.base import Task
from agentopt_local.trajectory import Trajectory
from ray_jobs.agents import sandbox_of
from ray_jobs.config import RunConfig
from serving.actor import Incarnation, PooledActor
from serving.actor_pool import MAX_IN_FLIGHT, ActorPool
from serving.pool import EnginePool


class WorkerActor(PooledActor):
    """The actor that makes rollouts on a node."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Solver]]) -> None:
        """``opened`` opens the agent with all it needs, on the first call, because there is no event loop yet."""
        super().__init__()
        self._opened = opened
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._solver: Solver | None = None

    async def ready(self) -> Incarnation:
        """Return once sandbox and engines can be used. Raises ConfigError, EngineDeadError or SandboxError."""
        await self._open()
        return await super().ready()

    async def solve(self, problem: Problem, functions: FunctionSet, seed: int) -> Trajectory:
        """Attempt ``problem`` and grade the attempt."""
        solver = await self._open()  # Ray may send an attempt to a restarted actor before `ready` is called
        return await solver.solve(problem, functions, seed=seed)

    async def _open(self) -> Solver:
        async with self._opening:
            if self._solver is None:
                self._solver = await self._stack.enter_async_context(self._opened())
        return self._solver

    async def close(self) -> None:
        """Close the sandbox; the engines stay."""
        await self._stack.aclose()


class RolloutWorkers(ActorPool):
    """The Solver whose attempts are made and graded by workers."""

    def __init__(self, actors: Sequence[Any], config: RunConfig, ledger: Ledger) -> None:
        """``actors`` are handles of :class:`WorkerActor`; ``ledger`` counts an attempt when it ends."""
        super().__init__(actors, noun="rollout worker", start_timeout_s=config.engine.start_timeout_s)
        self.ledger = ledger
        self.prices: Prices = config.model.prices

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Trajectory:
        """Have a worker attempt ``problem`` and grade the attempt.

        Raises what the worker raises, BudgetError, and EngineDeadError if no worker is left.
        """
        self.ledger.check()
        try:
            trajectory = await self.call("solve", problem, functions, seed, what=f"an attempt at {problem.id}")
        except asyncio.CancelledError:
            self.ledger.add("agent", Usage(), 0.0, lost=True)
            raise
        assert isinstance(trajectory, Trajectory)
        self.ledger.add("agent", trajectory.usage, self.prices.cost(trajectory.usage))
        return trajectory


def worker_nodes(count: int | None) -> list[str]:
    """The node id of each of ``count`` rollout workers; None means one per node if there are several nodes, else none.

    Nodes without processors, such as the heads of large clusters, get none. Raises ConfigError if no node is left.
    """
    nodes = [row["NodeID"] for row in ray.nodes() if row["Alive"] and row["Resources"].get("CPU", 0) >= 1]
    if count is None:
        return nodes if len(nodes) > 1 else []
    if count and not nodes:
        raise ConfigError(f"ray.rollout_workers = {count}: no node of the Ray cluster has a processor for them")
    return [nodes[index % len(nodes)] for index in range(count)]


def sendable(task: Task) -> Task:
    """What a worker needs of ``task``, as small as possible. Raises ConfigError if it cannot be sent."""
    smaller = getattr(task, "for_grading", None)
    task = task if smaller is None else smaller()
    _, error = outcome(lambda: ray.cloudpickle.dumps(task))
    if error is not None:
        raise ConfigError(
            f"task {task.name!r} cannot be sent to rollout workers ({type(error).__name__}: {error}); keep open files, "
            "locks and connections out of its grader, or set ray.rollout_workers = 0"
        )
    return task


@asynccontextmanager
async def grading_agent(config: RunConfig, task: Task, engines: Callable[[], EnginePool]) -> AsyncIterator[Solver]:
    """Open a worker's agent, with a sandbox and its own connection to the engines."""
    async with AsyncExitStack() as stack:
        sandbox = RepeatingSandbox(await stack.enter_async_context(sandbox_of(config.sandbox, task.preload)))
        pool = engines()
        stack.push_async_callback(pool.aclose)
        await pool.start()
        yield GradedAgent(make_agent(pool, sandbox, config.agent, config.model.thinking_as("agent")), task, sandbox)


async def open_workers(
    config: RunConfig, task: Task, model: ChatModel, ledger: Ledger, stack: AsyncExitStack
) -> RolloutWorkers | None:
    """Start the configured workers; None if rollouts run in this process. ``stack`` closes them.

    Raises ConfigError, and EngineDeadError if a worker does not start.
    """
    count = config.ray.rollout_workers
    if not isinstance(model, EnginePool) or model.turns:
        if count:
            only = "whose engines do not take turns" if isinstance(model, EnginePool) else "whose model is hosted here"
            raise ConfigError(
                f"ray.rollout_workers = {count}: only an agent {only} can work on other nodes; leave "
                "ray.rollout_workers out"
            )
        return None
    nodes = worker_nodes(count)
    if not nodes:
        return None
    opened = partial(grading_agent, config, sendable(task), model.connector())
    remote = ray.remote(WorkerActor)
    actors = [
        remote.options(
            num_cpus=0,
            max_concurrency=MAX_IN_FLIGHT,
            max_restarts=config.engine.max_restarts,
            # soft: the worker of a lost node is restarted on another
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),
        ).remote(opened)
        for node in nodes
    ]
    workers = RolloutWorkers(actors, config, ledger)
    stack.push_async_callback(workers.aclose)
    try:
        await workers.start()
    except (ConfigError, EngineDeadError) as error:
        raise type(error)(f"{error}; ray.rollout_workers = 0 keeps the rollouts in the command's own process") from None
    return workers
