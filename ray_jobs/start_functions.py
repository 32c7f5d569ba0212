"""The functions a training starts from: read from files, checked, and loaded in a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.exporting.sources import find_functions, load_in_sandbox
from agentopt_local.functions import FunctionSet
from agentopt_local.plain_files import own_path
from ray_jobs.agents import sandbox_of
from ray_jobs.config import RunConfig, SandboxConfig


async def read_start_functions(config: RunConfig) -> FunctionSet:
    """The checked functions at ``config.start_functions``, or the empty set. Raises ConfigError."""
    if config.start_functions is None:
        return FunctionSet()
    return await checked_functions(Path(config.start_functions), config.optimizer.allowed_packages, config.sandbox)


def load_functions(path: Path, allowed_packages: Sequence[str], settings: SandboxConfig) -> FunctionSet:
    """What :func:`checked_functions` returns. It runs an event loop, so call it before starting another."""
    return asyncio.run(checked_functions(path, allowed_packages, settings))


async def checked_functions(path: Path, allowed_packages: Sequence[str], settings: SandboxConfig) -> FunctionSet:
    """Read the functions at ``path``, check sources and imports, and load them in a sandbox of their own.

    Raises a ConfigError that names each wrong file.
    """
    found = find_functions(expanded(path), allowed_packages)
    async with sandbox_of(settings) as sandbox:
        return await load_in_sandbox(found, sandbox, timeout_s=settings.timeout_s)


def expanded(path: Path) -> Path:
    """``path`` with ``~`` replaced by the home folder."""
    return own_path(str(path), "the functions at")
