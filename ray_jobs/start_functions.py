"""The functions that a training starts from: read, checked and loaded once in a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.exporting.sources import find_functions, load_in_sandbox
from agentopt_local.functions import FunctionSet
from ray_jobs.agents import sandbox_of
from ray_jobs.config import RunConfig, SandboxConfig


def start_set(config: RunConfig) -> FunctionSet:
    """The checked functions that ``config.start_functions`` names; the empty set if it names none."""
    if config.start_functions is None:
        return FunctionSet()
    path = Path(config.start_functions).expanduser()
    return load_functions(path, config.optimizer.allowed_packages, config.sandbox)


def load_functions(path: Path, allowed_packages: Sequence[str], settings: SandboxConfig) -> FunctionSet:
    """The functions at ``path`` after every check: as Function, of imports, and a load in a sandbox of its own.

    Raises ConfigError that names each wrong file. Starts an event loop, so it is called before a command's own.
    """
    found = find_functions(path, allowed_packages)

    async def load() -> FunctionSet:
        async with sandbox_of(settings) as sandbox:
            return await load_in_sandbox(found, sandbox, timeout_s=settings.timeout_s)

    return asyncio.run(load())
