"""Everything one run needs, opened and closed together: model, sandbox, task, agent, optimizer, run folder."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from agentopt_local.admission import Admission
from agentopt_local.agents.base import Agent
from agentopt_local.agents.function_calling import FunctionCallingAgent
from agentopt_local.chat import ChatModel, Usage
from agentopt_local.models.metered import Ledger, MeteredModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.rollout import Progress, Rollouts
from agentopt_local.run.metrics import Metrics
from agentopt_local.run.rows import MetricRow, Role
from agentopt_local.run.writer import RunDir
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.sandbox.repeating import RepeatingSandbox
from agentopt_local.stage import Stage
from agentopt_local.task import Task, load_task
from agentopt_local.trajectory import Trajectory
from ray_jobs.agents import AGENTS, sandbox_of
from ray_jobs.config import RunConfig
from ray_jobs.forecast import Forecast
from ray_jobs.open_models import Models, open_model, open_models
from serving.facts import EngineFacts, Pulse

log = logging.getLogger(__name__)
BEAT_S = 2.0
"""Between two looks at the engines."""
HOSTED = ("cpu", "gpu")
"""Devices of engines on the Ray cluster, beside which rollouts can run."""


@dataclass
class Session:
    """An open run."""

    config: RunConfig
    run_dir: RunDir
    task: Task
    sandbox: Sandbox
    model: ChatModel
    """The agent's, counted by the ledger."""
    rollouts: Rollouts
    optimizer: Optimizer
    ledger: Ledger
    metrics: Metrics
    forecast: Forecast
    device: str
    engine: EngineFacts | None
    """How the agent's engine computes, if it is hosted."""
    started: float
    layers: dict[str, str]
    """The sandbox's layers in force, as found when it was opened."""


def task_of(config: RunConfig) -> Task:
    """The configured task. Raises ConfigError if it is wrong or has too few problems."""
    task = load_task(config.task.spec, seed=config.task.seed, settings=config.task.settings)
    task.problems("train", config.task.n_train)
    task.problems("test", config.task.n_test)
    return task


@asynccontextmanager
async def open_session(
    config: RunConfig,
    run_dir: RunDir,
    progress: Progress,
    *,
    model: ChatModel | Models | None = None,
    on_metrics: Callable[[MetricRow], None] | None = None,
) -> AsyncIterator[Session]:
    """Open everything, cheapest first, so that a user's mistake shows before an engine starts.

    ``model`` replaces the configured ones: the shipped scripted model, in tests and trials, or open models that
    several runs share. They are not closed with the session. ``on_metrics`` is told every row of metrics.jsonl.
    """
    task = task_of(config)
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(sandbox_of(config.sandbox, task.preload))
        sandbox = RepeatingSandbox(opened)
        if model is None:
            models = await open_models(config, stack, progress)
        else:
            models = model if isinstance(model, Models) else Models.of(model)
        forecast = forecast_of(config, models.agent, steps=len(run_dir.steps()))

        def under_way(stage: Stage) -> int:
            return ledger.under_way["optimizer"] if stage.part == "proposing" else rollouts.under_way[stage]

        metrics = open_metrics(run_dir, stack, on_metrics, under_way=under_way, left=forecast.left)

        def spent(role: Role, usage: Usage) -> None:
            metrics.spent(usage)
            forecast.spent(role, usage)

        def ended(stage: Stage, trajectory: Trajectory) -> None:
            metrics.rollout(stage, trajectory)
            forecast.rollout(stage, trajectory)

        ledger = Ledger(run_dir, config.budget, observe=spent)

        def told(stage: Stage, done: int, total: int) -> None:
            metrics.progress(stage, done, total)
            progress(stage, done, total)

        writer = config.optimizer_model or config.model
        talker = MeteredModel(models.agent, "agent", config.model.prices, ledger)
        agent: Agent = AGENTS[config.agent.kind](talker, sandbox, config.agent)
        if config.ray.rollout_workers or models.device in HOSTED:
            from ray_jobs.workers import open_workers

            agent = await open_workers(config, task, models.agent, ledger, stack) or agent
        admission = admission_of(config, models.agent)
        rollouts = Rollouts(agent, task, sandbox, run_dir, admission=admission, progress=told, observe=ended)
        one_text = config.agent.kind == "react" and config.agent.one_string_argument
        optimizer = Optimizer(
            MeteredModel(models.optimizer, "optimizer", writer.prices, ledger),
            task,
            sandbox,
            config.optimizer,
            one_text=one_text,
        )
        stack.push_async_callback(end_task, asyncio.create_task(beats(models, metrics, forecast)))
        yield Session(
            config=config,
            run_dir=run_dir,
            task=task,
            sandbox=sandbox,
            model=talker,
            rollouts=rollouts,
            optimizer=optimizer,
            ledger=ledger,
            metrics=metrics,
            forecast=forecast,
            device=models.device,
            engine=getattr(models.agent, "facts", None),
            started=started,
            layers=opened.describe_layers(),
        )


async def beats(models: Models, metrics: Metrics, forecast: Forecast) -> None:
    """Tell how far the engines are, from the first second on and although no answer comes."""
    pools = {id(model): model for model in (models.agent, models.optimizer) if hasattr(model, "pulse")}.values()
    first: Pulse | None = None
    while True:
        await asyncio.sleep(BEAT_S)
        told = [pulse for pool in pools if (pulse := await pool.pulse()) is not None]
        if len(told) < len(pools) or not told:
            metrics.beat()
            continue
        now = sum(told, Pulse())
        # What joined engines did before this run, and what a restarted one has forgotten, is no work of ours.
        first = now if first is None or now.steps < first.steps else first
        engines = (now.prompt_tokens - first.prompt_tokens, now.completion_tokens - first.completion_tokens)
        forecast.beat(engines)
        metrics.beat(engines)


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel ``task`` and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def forecast_of(config: RunConfig, model: ChatModel, *, steps: int = 0) -> Forecast:
    """A forecast with the speed that ``model`` is expected to have."""
    facts: EngineFacts | None = getattr(model, "facts", None)
    return Forecast(config, facts.speed if facts else None, steps=steps)


def admission_of(config: RunConfig, model: ChatModel) -> Admission:
    """``concurrency`` rollouts at once, as far as the engines that host ``model`` have room for them."""
    return Admission(
        config.concurrency,
        capacity=lambda: getattr(model, "kv_cache_tokens", None),  # of engines; endpoints do not tell
        expected_tokens=config.agent.max_tokens,
    )


def open_metrics(
    run_dir: RunDir,
    stack: AsyncExitStack,
    on_metrics: Callable[[MetricRow], None] | None,
    *,
    under_way: Callable[[Stage], int],
    left: Callable[[], float | None],
) -> Metrics:
    """Metrics that go to the run folder, to TensorBoard's files where that is installed, and to ``on_metrics``."""
    from ray_jobs.tensorboard import open_events

    last = run_dir.last_metric()
    events = open_events(run_dir.events_path)
    if events is not None:
        stack.callback(events.close)

    def write(row: MetricRow) -> None:
        run_dir.keep_metric(row)
        if events is not None:
            events.write(row)
        if on_metrics is not None:
            on_metrics(row)

    return Metrics(write, last=last, under_way=under_way, left=left)


@asynccontextmanager
async def open_agent(
    config: RunConfig, progress: Progress, *, model: ChatModel | None = None
) -> AsyncIterator[FunctionCallingAgent]:
    """The configured agent with its sandbox and model, for a person's questions. ``model`` replaces the model."""
    async with AsyncExitStack() as stack:
        sandbox = RepeatingSandbox(await stack.enter_async_context(sandbox_of(config.sandbox)))
        if model is None:
            model, _ = await open_model(config.model, config.engine, config, stack, progress)
        yield AGENTS[config.agent.kind](model, sandbox, config.agent)
