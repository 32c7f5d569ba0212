"""The ``serve`` job: engines kept alive under a name, for runs to join."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from agentopt_local.errors import ConfigError
from agentopt_local.rollout import Progress
from agentopt_local.stage import Stage
from ray_jobs.cluster import connect, disconnect
from ray_jobs.config import RayConfig, RunConfig


async def serve(config: RunConfig, progress: Progress) -> None:
    """Start the configured engines under ``engine.pool_name`` and keep them alive until cancelled.

    Raises ConfigError if the name is missing or taken, EngineDeadError if an engine does not start.
    """
    from serving.model_store import resolve
    from serving.pool import is_served, start_pool
    from serving.vllm_arguments import check_arguments

    name = pool_name(config)
    check_arguments(config.engine)
    path = resolve(config.model.name, allow_fetch=False)
    async with AsyncExitStack() as stack:
        connect(config.ray)
        stack.callback(disconnect)
        if is_served(name):
            raise ConfigError(f"engines called {name!r} are there already; end them with: agentopt serve CONFIG --stop")
        progress(Stage(part=f"loading {config.model.name} into {config.engine.replicas} engines called {name}"), 0, 0)
        pool = await start_pool(path, config.engine, name=config.model.name, chat_template=config.model.chat_template)
        stack.push_async_callback(pool.aclose)
        progress(Stage(part=f"serving; use it with: agentopt train CONFIG --engine.pool_name {name}"), 0, 0)
        await asyncio.Event().wait()


def stop(config: RunConfig) -> int:
    """Stop the engines called ``engine.pool_name`` and return how many there were."""
    from serving.pool import end_named

    connect(cluster_of(config))
    try:
        return end_named(pool_name(config))
    finally:
        disconnect()


def pool_name(config: RunConfig) -> str:
    """The name of the engine pool. Raises ConfigError if it is not set."""
    if config.engine.pool_name is None:
        raise ConfigError("engine.pool_name is not set: give the engines a name, as --engine.pool_name shared")
    return config.engine.pool_name


def cluster_of(config: RunConfig) -> RayConfig:
    """The cluster with the named engines; without an address, the one running on this machine."""
    return config.ray if config.ray.address is not None else RayConfig(address="auto")
