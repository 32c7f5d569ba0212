"""The configured sandbox, as used by runs, rollout workers and chats, and the configured optimizer."""

from __future__ import annotations

from agentopt_local.models.metered import Ledger, MeteredModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.room import Room
from agentopt_local.sandbox import ForkServerSandbox, SandboxLimits, open_sandbox
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.tasks.base import Task
from ray_jobs.config import RunConfig, SandboxConfig
from ray_jobs.open_models import Models


def sandbox_of(settings: SandboxConfig, preload: tuple[str, ...] = ()) -> ForkServerSandbox:
    """The configured sandbox, to be entered with ``async with``; ``preload`` names modules to import in it."""
    return open_sandbox(
        limits=SandboxLimits(timeout_s=settings.timeout_s, memory_bytes=settings.memory_bytes),
        workers=settings.workers,
        preload=preload,
        allow_weak=settings.allow_weak,
    )


def optimizer_of(config: RunConfig, task: Task, sandbox: Sandbox, models: Models, ledger: Ledger) -> Optimizer:
    """The configured optimizer, with its model metered by ``ledger``."""
    settings = config.optimizer_model or config.model
    optimizer_model = MeteredModel(models.optimizer, "optimizer", settings.prices, ledger)
    one_text = config.agent.kind == "react" and config.agent.one_string_argument
    return Optimizer(
        optimizer_model,
        task,
        sandbox,
        config.optimizer,
        one_text=one_text,
        thinking=settings.thinking_as("optimizer"),
        room=Room(models.optimizer),
        keep_questions=config.agent.offer == "alike" or config.agent.max_functions is not None,
    )
