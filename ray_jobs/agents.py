"""The configured agent and its sandbox, as used by runs, rollout workers and chats."""

from __future__ import annotations

from agentopt_local.sandbox import ForkServerSandbox, SandboxLimits, open_sandbox
from ray_jobs.config import SandboxConfig


def sandbox_of(settings: SandboxConfig, preload: tuple[str, ...] = ()) -> ForkServerSandbox:
    """The configured sandbox, to be entered with ``async with``; ``preload`` names modules to import in it."""
    return open_sandbox(
        limits=SandboxLimits(timeout_s=settings.timeout_s, memory_bytes=settings.memory_bytes),
        workers=settings.workers,
        preload=preload,
        allow_weak=settings.allow_weak,
    )
