"""Everything a run needs, opened and closed together: task, sandbox, models, agent, optimizer and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from agentopt_local.admission import Admission
from agentopt_local.agents.loop import ChatAgent
from agentopt_local.agents.make import make_agent
from agentopt_local.callback import Callback, Callbacks
from agentopt_local.chat import ChatModel, Usage
from agentopt_local.models.metered import Ledger, MeteredModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.rollout import GradedAgent, Progress, Rollouts, Solver
from agentopt_local.run.metrics import Metrics
from agentopt_local.run.reader import read_day
from agentopt_local.run.report import NoiseFloor, Report
from agentopt_local.run.rows import MetricRow, Role, StepRow
from agentopt_local.run.writer import RunDir
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.sandbox.repeating import RepeatingSandbox
from agentopt_local.stage import Stage
from agentopt_local.tasks.base import Problems, Task
from agentopt_local.trajectory import Trajectory
from ray_jobs.agents import optimizer_of, sandbox_of
from ray_jobs.config import RunConfig
from ray_jobs.context_check import Context, key_of
from ray_jobs.forecast import Forecast
from ray_jobs.open_models import ENDPOINT_CONCURRENCY, Models, check_thinking, open_model, open_models
from ray_jobs.open_task import task_of
from serving.facts import EngineCounters, EngineFacts, Speed

log = logging.getLogger(__name__)
BEAT_S = 2.0
"""Seconds between two readings of the engines' counters."""
HOSTED = ("cpu", "gpu")
"""Devices of engines on the Ray cluster, next to which rollout workers can run."""


@dataclass
class Session:
    """An open run."""

    config: RunConfig
    run_dir: RunDir
    task: Task
    sandbox: Sandbox
    model: ChatModel
    """The agent's model, metered by the ledger."""
    rollouts: Rollouts
    optimizer: Optimizer
    ledger: Ledger
    observers: Observers
    device: str
    """Where the agent's model runs, as in :class:`Models`."""
    engine: EngineFacts | None
    """How the agent's engine computes; None behind an endpoint."""
    contexts: dict[Role, Context]
    """Of the models that know theirs."""
    started: float
    """When the session was opened, by the monotonic clock in seconds."""
    layers: dict[str, str]
    """The sandbox's layers and whether each is on, as found when it was opened."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What the parts of the job have taken."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time of the body towards ``part``."""
        started = time.monotonic()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - started


class Observers(Callback):
    """Passes on what happens in a run to its metrics, its forecast and the callbacks."""

    def __init__(self, metrics: Metrics, forecast: Forecast, callbacks: Callback, run_dir: RunDir) -> None:
        """``callbacks`` do not hear of rollouts that are in ``run_dir`` already."""
        self.metrics = metrics
        self.forecast = forecast
        self.callbacks = callbacks
        self._reported = set(run_dir.known())

    def on_progress(self, stage: Stage, done: int, total: int) -> None:
        self.metrics.progress(stage, done, total)
        self.callbacks.on_progress(stage, done, total)

    def on_rollout(self, stage: Stage, trajectory: Trajectory) -> None:
        self.metrics.rollout(stage, trajectory)
        self.forecast.rollout(stage, trajectory)
        key = (trajectory.functions, trajectory.problem_id, trajectory.seed)
        if key not in self._reported:
            self._reported.add(key)
            self.callbacks.on_rollout(stage, trajectory)

    def on_step(self, row: StepRow) -> None:
        self.metrics.step(row)
        self.forecast.step(row)
        self.callbacks.on_step(row)

    def on_noise_floor(self, floor: NoiseFloor) -> None:
        self.callbacks.on_noise_floor(floor)

    def on_evaluation(self, report: Report) -> None:
        self.callbacks.on_evaluation(report)

    def on_usage(self, role: Role, usage: Usage) -> None:
        """A completion has been paid for."""
        self.metrics.spent(usage)
        self.forecast.spent(role, usage)


@asynccontextmanager
async def open_session(
    config: RunConfig,
    run_dir: RunDir,
    callbacks: Iterable[Callback] = (),
    *,
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> AsyncIterator[Session]:
    """Open everything, cheapest first, so that a user's mistake surfaces before an engine starts.

    ``model`` replaces the configured models: a scripted model, or open models that several runs share. It is not
    closed with the session. ``task`` is the task, if it was given in Python.
    """
    heard = Callbacks(callbacks)
    opened_task = task_of(config, run_dir.path, task)
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(sandbox_of(config.sandbox, opened_task.preload))
        sandbox = RepeatingSandbox(opened)
        if model is None:
            models = await open_models(config, stack, heard.on_progress, day=read_day(run_dir.path))
        else:
            models = Models.of(model)
        forecast = Forecast(config, speeds_of(models), steps=len(run_dir.steps()), device=models.device)

        def under_way(stage: Stage) -> int:
            return ledger.under_way["optimizer"] if stage.part == "proposing" else rollouts.under_way[stage]

        metrics = open_metrics(run_dir, stack, heard.on_metrics, under_way=under_way, left=forecast.left)
        observers = Observers(metrics, forecast, heard, run_dir)
        ledger = Ledger(run_dir, config.budget, observe=observers.on_usage)
        agent_model = MeteredModel(models.agent, "agent", config.model.prices, ledger)
        agent = make_agent(agent_model, sandbox, config.agent, config.model.thinking_as("agent"))
        solver = await solver_of(config, GradedAgent(agent, opened_task, sandbox), models, ledger, stack)
        rollouts = Rollouts(
            solver,
            run_dir,
            admission=admission_of(config, models.agent),
            retrieval=agent.retrieval,
            progress=observers.on_progress,
            observe=observers.on_rollout,
        )
        optimizer = optimizer_of(config, opened_task, sandbox, models, ledger)
        stack.push_async_callback(end_task, asyncio.create_task(follow_engines(models, metrics, forecast)))
        yield Session(
            config=config,
            run_dir=run_dir,
            task=opened_task,
            sandbox=sandbox,
            model=agent_model,
            rollouts=rollouts,
            optimizer=optimizer,
            ledger=ledger,
            observers=observers,
            device=models.device,
            engine=getattr(models.agent, "facts", None),
            contexts=contexts_of(config, models),
            started=started,
            layers=opened.describe_layers(),
        )


def contexts_of(config: RunConfig, models: Models) -> dict[Role, Context]:
    """The contexts of the models that know theirs."""
    roles: dict[Role, ChatModel] = {"agent": models.agent, "optimizer": models.optimizer}
    known = {role: getattr(each, "context_tokens", None) for role, each in roles.items()}
    return {role: Context(key_of(config, role), tokens) for role, tokens in known.items() if tokens is not None}


async def solver_of(
    config: RunConfig, here: GradedAgent, models: Models, ledger: Ledger, stack: AsyncExitStack
) -> Solver:
    """Rollout workers on the cluster's nodes if they are configured or of use; otherwise ``here``."""
    if not config.ray.rollout_workers and models.device not in HOSTED:
        return here
    from ray_jobs.workers import open_workers

    return await open_workers(config, here.task, models.agent, ledger, stack) or here


async def follow_engines(models: Models, metrics: Metrics, forecast: Forecast) -> None:
    """Report the engines' progress every BEAT_S, so that it shows before the first reply arrives."""
    pools = {role: model for role, model in models.by_role().items() if hasattr(model, "counters")}
    first: dict[Role, EngineCounters] = {}
    while True:
        await asyncio.sleep(BEAT_S)
        readings = {role: reading for role, pool in pools.items() if (reading := await pool.counters()) is not None}
        if len(readings) < len(pools) or not readings:
            metrics.beat()
            continue
        engines: dict[Role, tuple[int, int]] = {}
        for role, now in readings.items():
            # Joined engines may have done other work before this run, and a restarted one counts from zero again.
            before = now if role not in first or now.steps < first[role].steps else first[role]
            first[role] = before
            engines[role] = (now.prompt_tokens - before.prompt_tokens, now.completion_tokens - before.completion_tokens)
        forecast.beat(engines)
        read, generated = zip(*engines.values(), strict=True)
        metrics.beat((sum(read), sum(generated)))


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel ``task`` and wait until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def speeds_of(models: Models) -> dict[Role, Speed]:
    """The expected speeds of the models, as far as they were measured."""
    facts: dict[Role, EngineFacts | None] = {
        role: getattr(model, "facts", None) for role, model in models.by_role().items()
    }
    return {role: each.speed for role, each in facts.items() if each and each.speed}


def admission_of(config: RunConfig, model: ChatModel) -> Admission:
    """Admits ``concurrency`` rollouts at once, or fewer if the engines of ``model`` lack room in their KV caches."""
    most = config.concurrency
    return Admission(
        (getattr(model, "max_num_seqs", None) or ENDPOINT_CONCURRENCY) if most == "auto" else most,
        capacity=lambda: getattr(model, "kv_cache_tokens", None),  # None for an endpoint
        expected_tokens=config.agent.max_tokens,
    )


def open_metrics(
    run_dir: RunDir,
    stack: AsyncExitStack,
    on_metrics: Callable[[MetricRow], None],
    *,
    under_way: Callable[[Stage], int],
    left: Callable[[], float | None],
) -> Metrics:
    """Metrics written to the run folder, to TensorBoard event files if it is installed, and to ``on_metrics``.

    ``under_way`` counts the requests or rollouts in flight of a stage; ``left`` estimates the seconds left.
    """
    from ray_jobs.tensorboard import open_events

    last = run_dir.last_metric()
    events = open_events(run_dir.events_path)
    if events is not None:
        stack.callback(events.close)

    def write(row: MetricRow) -> None:
        run_dir.keep_metric(row)
        if events is not None:
            events.write(row)
        on_metrics(row)

    return Metrics(write, last=last, under_way=under_way, left=left)


@asynccontextmanager
async def open_agent(
    config: RunConfig, progress: Progress, *, model: ChatModel | None = None
) -> AsyncIterator[ChatAgent]:
    """Open the configured agent with its sandbox and model, to answer a user's questions.

    ``model`` replaces the configured model.
    """
    async with AsyncExitStack() as stack:
        sandbox = RepeatingSandbox(await stack.enter_async_context(sandbox_of(config.sandbox)))
        if model is None:
            model, _ = await open_model(config.model, config.engine, config, stack, progress)
            check_thinking("model", config.model, model)
        yield make_agent(model, sandbox, config.agent, config.model.thinking_as("agent"), asked=True)
